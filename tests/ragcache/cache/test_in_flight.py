"""A lease counts on KV that another request computes: it waits, or inherits the work, and memory is conserved."""

from __future__ import annotations

import random
from array import array

import pytest

from ragcache.cache.cache import ADMISSIONS, KnowledgeCache, Lease
from ragcache.cost import PolynomialCost
from ragcache.errors import IntegrityError
from ragcache.policy import LRU, POLICIES
from ragcache.tree.segment import Segment
from tests.props.tiers import DOCUMENTS, SYSTEM, Tiered, computed, snapshot, spelled

A, B, C = (Segment.of(name, [number] * 10) for number, name in enumerate("ABC", 20))
CAPACITY = 100


@pytest.fixture
def cache() -> KnowledgeCache:
    return KnowledgeCache(CAPACITY, 1, LRU(), share_in_flight=True)


def leased(cache: KnowledgeCache, *path: Segment, extra: int = 2, namespace: str = "default") -> Lease:
    lease = cache.lease(path, extra, namespace=namespace)
    assert lease is not None
    cache.check_integrity()
    return lease


def land(lease: Lease, pieces: int = 9) -> None:
    """The engine has computed the next pieces of a lease."""
    lease.commit(computed(lease)[lease.committed :][:pieces])
    assert isinstance(lease.lender, KnowledgeCache)
    lease.lender.check_integrity()


def right(lease: Lease) -> bool:
    """Whether all that the lease reads is there, and what its path says."""
    nodes = lease.nodes[: lease.cached]
    return [node.kv.content for node in nodes] == [spelled(lease.path[: depth + 1]) for depth in range(lease.cached)]


def test_equal_requests_compute_once_and_the_others_wait(cache):
    leader = leased(cache, SYSTEM, A)
    followers = [leased(cache, SYSTEM, A) for _ in range(3)]
    assert leader.ready
    assert (leader.cached, leader.shared_tokens, leader.missed_tokens) == (0, 0, 13)
    calls = []
    for follower in followers:
        assert not follower.ready
        assert (follower.missing, follower.cached_by_tier, follower.shared_tokens) == ((), (13, 0, 0), 13)
        follower.when_ready(lambda: calls.append(1))
    # a follower takes memory for what it computes itself, and no more
    assert cache.balance().held == 13 + 2 + 3 * 2
    land(leader)
    assert len(calls) == 3
    assert all(follower.ready and right(follower) for follower in followers)
    for lease in (leader, *followers):
        lease.release()
    cache.check_integrity()
    assert (cache.balance().cached, cache.balance().held) == (13, 0)
    assert (cache.counts.misses, cache.counts.hits, cache.counts.insertions) == (2, 6, 2)


def test_a_common_beginning_is_read_as_soon_as_it_is_there(cache):
    leader, follower = leased(cache, SYSTEM, A, B), leased(cache, SYSTEM, A, C)
    assert follower.missing == (C,)
    land(leader, 1)
    assert not follower.ready
    land(leader, 1)
    assert follower.ready, "the leader's second document is none of its business"
    assert right(follower)
    assert leader.committed == 2
    land(follower)
    land(leader)
    again = leased(cache, SYSTEM, A, C)
    assert (again.cached_tokens, again.shared_tokens) == (23, 0)


def test_a_follower_leads_those_that_follow_it(cache):
    first, second, third = leased(cache, SYSTEM, A), leased(cache, SYSTEM, A, B), leased(cache, SYSTEM, A, B, C)
    assert [lease.missing for lease in (first, second, third)] == [(SYSTEM, A), (B,), (C,)]
    land(first)
    assert (second.ready, third.ready) == (True, False)
    first.release()
    land(second)
    assert third.ready
    assert right(third)


def test_the_first_follower_inherits_what_the_leader_leaves(cache):
    leader, heir, other = leased(cache, SYSTEM, A, B), leased(cache, SYSTEM, A), leased(cache, SYSTEM, A, B)
    land(leader, 1)
    held = cache.balance().held
    leader.release()
    cache.check_integrity()
    assert cache.balance().held == held - 2
    assert (heir.ready, other.ready) == (True, False)
    assert (heir.missing, heir.cached_by_tier, heir.missed_tokens, heir.shared_tokens) == ((A,), (3, 0, 0), 10, 3)
    # the last document has no other heir, though it waits for the first
    assert (other.missing, other.cached_by_tier, other.shared_tokens) == ((B,), (13, 0, 0), 13)
    land(heir)
    assert other.ready
    land(other)
    for lease in (heir, other):
        assert right(lease)
        lease.release()
    assert cache.counts.hits + cache.counts.misses == 3 + 2 + 3
    assert (cache.balance().cached, cache.balance().held) == (23, 0)


def test_what_none_waits_for_leaves_with_its_request(cache):
    leader, follower = leased(cache, SYSTEM, A, B), leased(cache, SYSTEM, C)
    follower.release()
    leader.release()
    cache.check_integrity()
    assert len(cache.tree) == 0
    assert cache.balance().free == CAPACITY
    assert cache.counts.insertions == cache.counts.evictions == 0


def test_a_follower_that_leaves_is_not_called(cache):
    leader, follower = leased(cache, SYSTEM, A), leased(cache, SYSTEM, A, B)
    follower.release()
    land(leader)
    leader.release()
    assert {node.label for node in cache.tree.nodes()} == {"system", "A"}
    cache.check_integrity()


def test_every_heir_gives_up_in_turn_and_the_last_computes(cache):
    leases = [leased(cache, SYSTEM, A, extra=1) for _ in range(6)]
    for lease in leases[:-1]:
        assert [each.ready for each in leases if each._open] == [True] + [False] * (sum(e._open for e in leases) - 1)
        lease.release()
        cache.check_integrity()
    (last,) = [lease for lease in leases if lease._open]
    assert (last.ready, last.missing, last.shared_tokens) == (True, (SYSTEM, A), 0)
    land(last)
    assert right(last)


def test_tenants_share_nothing_in_flight(cache):
    mine, yours = leased(cache, SYSTEM, A, namespace="mine"), leased(cache, SYSTEM, A, namespace="yours")
    assert mine.ready
    assert yours.ready
    assert (yours.missing, yours.shared_tokens) == ((SYSTEM, A), 0)
    mine.release()
    assert (yours.ready, yours.missing) == (True, (SYSTEM, A))


def test_without_sharing_each_computes_for_itself():
    cache = KnowledgeCache(CAPACITY, 1, LRU())
    leases = [leased(cache, SYSTEM, A) for _ in range(2)]
    assert all(lease.ready and lease.missing == (SYSTEM, A) and not lease.turn for lease in leases)
    assert not cache.shares_in_flight


def test_a_cache_that_keeps_nothing_has_nothing_to_share():
    with pytest.raises(ValueError, match="nothing to share"):
        KnowledgeCache(CAPACITY, 1, LRU(), keep=False, share_in_flight=True)


def test_turns_are_numbered_in_the_order_of_the_leases(cache):
    assert [leased(cache, each).turn for each in (A, B, A)] == [1, 2, 3]


def test_a_digest_collision_is_computed_for_itself(cache):
    other = Segment("A", array("i", [99] * 10), A.key)
    leader, collides = leased(cache, SYSTEM, A), leased(cache, SYSTEM, other, B)
    assert collides.missing == (other, B)
    land(leader)
    assert collides.ready
    collides.commit(computed(collides)[:1])
    land(collides)
    follower = leased(cache, SYSTEM, A)
    assert right(follower)
    for lease in (leader, collides, follower):
        lease.release()
    cache.check_integrity()
    assert cache.balance().held == 0


def test_a_load_that_fails_takes_along_what_is_computed_behind_it():
    tiered = Tiered(40, host=60, by_hand=True, share_in_flight=True)
    cache = tiered.cache
    tiered.use([SYSTEM, A])
    tiered.use([Segment.of("large", [92] * 38)])  # the others go to the host
    leases = [leased(cache, SYSTEM, A, B, extra=0), leased(cache, SYSTEM, A, B, C, extra=0)]
    assert [lease.missing for lease in leases] == [(B,), (C,)]
    tiered.shelf.reasons += ["io", "checksum"]  # of the copy that makes room, and of the load
    tiered.settle()
    cache.check_integrity()
    assert all(lease.broken and lease.ready for lease in leases)
    for lease in leases:
        lease.release()
    assert not cache.hierarchy.moves.has_strays
    leader, follower = leased(cache, SYSTEM, A, B, extra=0), leased(cache, SYSTEM, A, B, extra=0)
    assert leader.missing == (SYSTEM, A, B)
    tiered.settle()
    land(leader)
    assert follower.ready
    assert right(follower)


def test_a_follower_waits_for_loads_too():
    tiered = Tiered(60, host=60, disk=100, by_hand=True, share_in_flight=True)
    tiered.use([SYSTEM, A])
    tiered.use([Segment.of("large", [92] * 58)])
    leader, follower = leased(tiered.cache, SYSTEM, A, B), leased(tiered.cache, SYSTEM, A, B)
    assert leader.cached_by_tier == (0, 13, 0)
    # the leader's loads have begun: what it brings to the device is there for the follower
    assert (follower.cached_by_tier, follower.shared_tokens) == ((23, 0, 0), 10)
    assert not leader.ready
    tiered.settle()
    assert (leader.ready, follower.ready) == (True, False)
    land(leader)
    assert follower.ready
    assert right(follower)


def test_what_went_between_landing_and_the_turn_is_a_plain_miss(cache):
    with leased(cache, SYSTEM, A) as leader:
        land(leader)
    leased(cache, Segment.of("large", range(100, 198))).release()
    late = leased(cache, SYSTEM, A)
    assert (late.ready, late.missed_tokens, late.shared_tokens) == (True, 13, 0)


def test_wrong_books_of_who_computes_are_noticed(cache):
    leader = leased(cache, SYSTEM, A)
    cache._leases.pop(leader)
    with pytest.raises(IntegrityError, match="in flight without a request"):
        cache.check_integrity()


def test_a_lease_is_awaited_while_another_holds_what_it_is_to_compute(cache):
    leader = leased(cache, SYSTEM, A, B)
    assert not leader.awaited
    follower, other = leased(cache, SYSTEM, A), leased(cache, SYSTEM, A)
    assert [lease.awaited for lease in (leader, follower, other)] == [True, False, False]
    leader.release()
    assert [lease.awaited for lease in (leader, follower, other)] == [False, True, False]
    land(follower, 1)
    assert follower.awaited
    other.release()
    assert not follower.awaited
    last = leased(cache, SYSTEM, A, C)
    assert follower.awaited
    land(follower)
    assert not follower.awaited
    assert not last.awaited


def test_what_is_being_computed_displaces_nothing_before_it_is_there():
    """60 bytes may stay between requests: 30 that are cached and 20 newcomers do so while another request computes."""
    cache = KnowledgeCache(CAPACITY, 1, LRU(), admission="competes", working=40, share_in_flight=True)
    cached = [Segment.of(name, [number] * 10) for number, name in enumerate("xyz", 60)]
    newcomer, large = Segment.of("newcomer", [70] * 20), Segment.of("large", [71] * 25)
    for segment in cached:
        with leased(cache, segment) as lease:
            land(lease)
    for _ in range(2):
        leader, follower = leased(cache, large), leased(cache, large)
        with leased(cache, newcomer) as lease:
            land(lease)
        cache.check_integrity()
        assert {node.label for node in cache.tree.nodes()} == {"x", "y", "z", "newcomer", "large"}
        follower.release()
        leader.release()  # without having computed anything
        assert cache.balance().cached == 50
    with leased(cache, large) as leader:
        land(leader)
    assert cache.balance().cached <= 60
    assert (cache.balance().held, cache._in_flight.bytes) == (0, 0)


def test_wrong_bytes_of_what_is_computed_are_noticed(cache):
    leased(cache, SYSTEM, A)
    cache._in_flight.bytes -= 1
    with pytest.raises(IntegrityError, match="in flight take 13 bytes of the device, the books say 12"):
        cache.check_integrity()


@pytest.mark.parametrize("admission", ADMISSIONS)
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_one_request_after_the_other_leaves_what_it_leaves_without_sharing(policy, admission):
    chance = random.Random(policy)
    pair = [
        Tiered(16, 14, 30, policy, admission=admission, working=3, share_in_flight=share, cost=PolynomialCost(3, 0.5))
        for share in (False, True)
    ]
    for _ in range(200):
        path = [SYSTEM, *chance.choices(DOCUMENTS, weights=range(7, 0, -1), k=2)]
        assert pair[0].use(path, 1) == pair[1].use(path, 1)
    plain, sharing = (tiered.cache for tiered in pair)
    assert snapshot(plain) == snapshot(sharing)
    assert plain.report().tiers == sharing.report().tiers
    prices = [
        [(node.id, node.misses, node.seconds_per_token) for node in cache.tree.nodes()] for cache in (plain, sharing)
    ]
    assert prices[0] == prices[1]
    for ours, theirs in zip(plain.hierarchy.tiers(), sharing.hierarchy.tiers(), strict=True):
        assert [node.id for node in ours.eviction_order()] == [node.id for node in theirs.eviction_order()]
