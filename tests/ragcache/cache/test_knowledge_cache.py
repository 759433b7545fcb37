"""The cache keeps its books, keeps what is held, and says no without a trace."""

from array import array
from collections.abc import Iterator
from typing import Any

import pytest

from ragcache.cache.cache import Balance, IntegrityError, KnowledgeCache, Lease
from ragcache.cost import PolynomialCost
from ragcache.policy import LRU
from ragcache.tree.segment import Segment
from ragcache.tree.tree import DEVICE, Node, Place
from tests.props.tiers import DOCUMENTS, SYSTEM, computed, snapshot, spelled, use


@pytest.fixture
def caches() -> Iterator[Any]:
    """Makes caches of one byte a token; after the test the books of each must balance."""
    made: list[KnowledgeCache] = []

    def make(capacity: int, **options: Any) -> KnowledgeCache:
        made.append(KnowledgeCache(capacity, 1, LRU(), **options))
        return made[-1]

    yield make
    for cache in made:
        cache.check_integrity()


def test_what_was_computed_is_found_again(caches):
    cache = caches(100)
    path = [SYSTEM, DOCUMENTS[1], DOCUMENTS[2]]
    assert use(cache, path) == 0
    lease = cache.lease(path, 5)
    assert lease.cached == 3
    assert lease.cached_tokens == 3 + 2 + 3
    assert lease.missing == ()
    assert [node.kv.content for node in lease.nodes] == [spelled(path[: depth + 1]) for depth in range(3)]
    assert cache.balance() == Balance(total=100, free=100 - 8 - 5, cached=0, held=13)
    lease.release()
    assert cache.balance() == Balance(total=100, free=92, cached=8, held=0)


def test_a_shared_beginning_is_found_and_the_rest_computed(caches):
    cache = caches(100)
    use(cache, [SYSTEM, DOCUMENTS[0], DOCUMENTS[1]])
    lease = cache.lease([SYSTEM, DOCUMENTS[0], DOCUMENTS[2]], 0)
    assert (lease.cached, lease.missing) == (2, (DOCUMENTS[2],))
    lease.release()


def test_counts_are_of_segments_and_tokens(caches):
    cache = caches(100)
    use(cache, [SYSTEM, DOCUMENTS[0]])
    use(cache, [SYSTEM, DOCUMENTS[1]])
    counts = cache.counts
    assert (counts.hits, counts.misses, counts.insertions) == (1, 3, 3)
    assert (counts.hit_tokens, counts.missed_tokens) == (3, 3 + 1 + 2)
    assert (counts.evictions, counts.refusals) == (0, 0)


def test_two_requests_that_compute_the_same_path_keep_one_copy(caches):
    cache = caches(100)
    path = [SYSTEM, DOCUMENTS[3]]
    first, second = cache.lease(path, 1), cache.lease(path, 1)
    assert first.cached == second.cached == 0
    kv = computed(first)
    first.commit(kv)
    second.commit(computed(second))
    assert len(cache.tree) == 2
    assert [node.kv for node in second.nodes] == kv  # the faster one's serves
    # the slower one's own copy stays accounted for until it ends
    assert cache.balance().held == 7 + 1 + 7 + 1
    first.release()
    assert cache.balance().held == 7 + 7 + 1  # the second holds the nodes, too
    cache.check_integrity()
    second.release()
    assert cache.balance() == Balance(total=100, free=93, cached=7, held=0)


def test_half_of_a_path_from_another_request(caches):
    cache = caches(100)
    short, long = cache.lease([SYSTEM], 0), cache.lease([SYSTEM, DOCUMENTS[0]], 0)
    short.commit(computed(short))
    long.commit(computed(long))
    cache.check_integrity()
    assert cache.balance().held == 3 + 1 + 3
    short.release()
    long.release()
    assert use(cache, [SYSTEM, DOCUMENTS[0]]) == 2


def test_held_nodes_are_never_evicted(caches):
    cache = caches(12)
    held = cache.lease([SYSTEM, DOCUMENTS[3]], 0)
    held.commit(computed(held))
    for i in range(20):
        use(cache, [Segment.of("other", [100 + i] * 4)])
    assert all(node.kv is not None for node in held.nodes)
    assert cache.tree.match(held.root, held.path) == held.nodes
    held.release()


def test_a_parent_outlives_its_children(caches):
    cache = caches(8)
    use(cache, [SYSTEM, DOCUMENTS[1], DOCUMENTS[2]])  # all of it
    lease = cache.lease([DOCUMENTS[0]], 0)  # a token of room: the last document goes, whole
    assert len(cache.tree.match(lease.root, [SYSTEM, DOCUMENTS[1], DOCUMENTS[2]])) == 2
    lease.release()


def test_refusal_changes_nothing(caches):
    cache = caches(20)
    use(cache, [SYSTEM, DOCUMENTS[0]])
    running = cache.lease([SYSTEM], 12)
    before = cache.balance(), len(cache.tree), cache.counts.evictions, cache.counts.hits, snapshot(cache)
    assert cache.lease([SYSTEM, DOCUMENTS[3]], 5) is None
    assert (cache.balance(), len(cache.tree), cache.counts.evictions, cache.counts.hits, snapshot(cache)) == before
    assert cache.counts.refusals == 1
    running.release()
    assert cache.lease([SYSTEM, DOCUMENTS[3]], 5) is not None


def test_a_cached_prefix_is_not_evicted_to_make_room_for_its_own_rest(caches):
    cache = caches(10)
    use(cache, [SYSTEM, DOCUMENTS[3]])  # 7 of 10 cached
    lease = cache.lease([SYSTEM, DOCUMENTS[3], DOCUMENTS[2]], 0)  # exactly fits if the prefix stays
    assert lease.cached == 2
    assert cache.balance() == Balance(total=10, free=0, cached=0, held=10)
    lease.release()
    assert cache.lease([SYSTEM, DOCUMENTS[3], DOCUMENTS[2]], 1) is None  # the prefix cannot pay for the rest


def test_can_ever_lease_is_what_an_idle_cache_grants(caches):
    for extra in range(8):
        cache = caches(12)
        path = [SYSTEM, DOCUMENTS[3]]
        use(cache, [DOCUMENTS[2], DOCUMENTS[1]])
        assert (cache.lease(path, extra) is not None) == cache.can_ever_lease(path, extra) == (extra <= 5)


@pytest.mark.parametrize("known", [True, False])
def test_a_digest_collision_is_a_miss_and_never_wrong_kv(caches, known):
    cache = caches(100)
    impostor = Segment("impostor", array("i", [77]), SYSTEM.key)
    genuine = cache.lease([SYSTEM, DOCUMENTS[0]], 0)
    if known:
        genuine.commit(computed(genuine))
    lease = cache.lease([impostor, DOCUMENTS[0]], 0)
    assert lease.cached == 0
    if not known:  # the collision arises between lease and commit
        genuine.commit(computed(genuine))
    lease.commit(computed(lease))
    cache.check_integrity()
    assert lease.nodes == []  # its KV stays its own
    lease.release()
    assert [node.kv.content for node in genuine.nodes] == [((1, 2, 3),), ((1, 2, 3), (10,))]
    assert use(cache, [SYSTEM, DOCUMENTS[0]]) == 2
    assert use(cache, [impostor, DOCUMENTS[0]]) == 0
    genuine.release()


def test_without_keep_nothing_stays(caches):
    cache = caches(50, keep=False)
    for _ in range(2):
        assert use(cache, [SYSTEM, DOCUMENTS[1]], 3) == 0
        assert cache.balance() == Balance(total=50, free=50, cached=0, held=0)
    first, second = cache.lease([SYSTEM], 0), cache.lease([SYSTEM, DOCUMENTS[1]], 0)
    first.commit(computed(first))
    second.commit(computed(second))
    first.release()
    cache.check_integrity()
    assert second.nodes[0].kv is not None  # still held
    second.release()
    assert len(cache.tree) == 0


def test_drop_unheld_keeps_what_is_in_use(caches):
    cache = caches(100)
    use(cache, [SYSTEM, DOCUMENTS[0], DOCUMENTS[1]])
    use(cache, [SYSTEM, DOCUMENTS[2]])
    lease = cache.lease([SYSTEM, DOCUMENTS[0]], 0)
    assert cache.drop_unheld() == (2, 2 + 3)
    assert cache.balance() == Balance(total=100, free=96, cached=0, held=4)
    assert cache.drop_unheld() == (0, 0)
    lease.release()
    assert use(cache, [SYSTEM, DOCUMENTS[0]]) == 2


def test_a_lease_is_committed_while_open_and_with_no_more_than_is_missing(caches):
    cache = caches(100)
    lease = cache.lease([SYSTEM, DOCUMENTS[0]], 0)
    kv = computed(lease)
    with pytest.raises(ValueError, match="segments once"):
        lease.commit([*kv, kv[0]])
    lease.commit(kv)
    with pytest.raises(ValueError, match="segments once"):
        lease.commit(kv)
    lease.release()
    late = cache.lease([SYSTEM, DOCUMENTS[1]], 0)
    kv = computed(late)
    late.release()
    with pytest.raises(ValueError, match="segments once"):
        late.commit(kv)
    assert len(cache.tree) == 2


def test_of_a_prompt_given_up_the_complete_beginning_stays(caches):
    cache = caches(100)
    lease = cache.lease([SYSTEM, DOCUMENTS[0]], 0)
    kv = computed(lease)
    lease.commit(kv[:1])
    lease.release()
    with pytest.raises(ValueError, match="segments once"):
        lease.commit(kv[1:])
    cache.check_integrity()
    assert [node.label for node in cache.tree.nodes()] == [SYSTEM.label]
    assert cache.balance().held == 0
    assert use(cache, [SYSTEM, DOCUMENTS[0]]) == 1, "only the system prompt is found"


def test_pieces_committed_one_by_one_cost_what_they_cost_together():
    prices = []
    for pieces in (1, 3):
        cache = KnowledgeCache(100, 1, LRU(), cost=PolynomialCost(3, 0.5))
        with cache.lease([SYSTEM, *DOCUMENTS[:2]], 2) as lease:
            kv = computed(lease)
            for begin in range(0, 3, pieces):
                lease.commit(kv[begin : begin + pieces])
        cache.check_integrity()
        prices.append([(n.label, n.frequency, n.last_use, n.misses, n.seconds_per_token) for n in cache.tree.nodes()])
    assert prices[0] == prices[1]


def test_behind_a_piece_that_stays_the_requests_own_none_is_taken(caches):
    cache = caches(100)
    other = Segment("other", array("i", [99]), DOCUMENTS[0].key)
    use(cache, [SYSTEM, DOCUMENTS[0]])
    with cache.lease([SYSTEM, other, DOCUMENTS[2]], 0) as lease:
        for kv in computed(lease):
            lease.commit([kv])
    cache.check_integrity()
    assert {node.label for node in cache.tree.nodes()} == {SYSTEM.label, DOCUMENTS[0].label}


def test_releasing_twice_is_harmless(caches):
    cache = caches(100)
    with cache.lease([SYSTEM], 4) as lease:
        lease.release()
        lease.release()
    assert cache.balance().free == 100


def test_an_exception_under_a_lease_releases_it(caches):
    cache = caches(100)
    with pytest.raises(RuntimeError, match="mid-way"), cache.lease([SYSTEM], 4):
        raise RuntimeError("mid-way")
    assert cache.balance().free == 100


def test_capacity_below_one_token_is_refused():
    with pytest.raises(ValueError, match="less than one token"):
        KnowledgeCache(511, 512, LRU())


def test_bytes_are_tokens_times_the_size_of_one():
    cache = KnowledgeCache(5120, 512, LRU())
    with cache.lease([SYSTEM], 2):
        assert cache.balance() == Balance(total=5120, free=2560, cached=0, held=2560)


def test_the_integrity_check_notices_what_it_claims_to():
    """A check that cannot fail shows nothing, so each book is falsified once."""

    def falsified(break_it: Any) -> KnowledgeCache:
        cache = KnowledgeCache(100, 1, LRU())
        use(cache, [SYSTEM, DOCUMENTS[0]])
        lease = cache.lease([SYSTEM], 2)
        cache.check_integrity()
        break_it(cache, lease)
        return cache

    def leaf(cache: KnowledgeCache) -> Node:
        return next(node for node in cache.tree.nodes() if not node.children)

    def place(node: Node) -> Place:
        place = node.places[DEVICE]
        assert place is not None
        return place

    def no_kv(cache: KnowledgeCache, lease: Lease) -> None:
        leaf(cache).places[DEVICE] = None
        lease.nodes[0].below[DEVICE] = 0

    def hold_alone(cache: KnowledgeCache, lease: Lease) -> None:
        place(lease.nodes[0]).holders, place(leaf(cache)).holders = 0, 1
        lease.nodes[0] = leaf(cache)

    breaks = {
        "is in the tree without KV": no_kv,
        "has no KV on the device": lambda cache, _: setattr(place(leaf(cache)), "copy", None),
        "counts 0 holders": lambda _, lease: setattr(place(lease.nodes[0]), "holders", 0),
        "miscounts its children": lambda _, lease: lease.nodes[0].below.__setitem__(DEVICE, 2),
        "is held alone": hold_alone,
        "is not its parent's child": lambda cache, _: setattr(leaf(cache), "parent", cache.tree.root("elsewhere")),
        "offered": lambda cache, _: cache._policy.withdraw(leaf(cache)),
        "leases reserve 2 bytes": lambda cache, _: setattr(cache.hierarchy.device, "reserved", 3),
        "recounted": lambda cache, _: setattr(cache.hierarchy.device, "cached", 5),
        "the books say": lambda cache, _: setattr(cache.tree, "_count", 3),
        "free=-1": lambda cache, _: setattr(cache.hierarchy.device, "capacity", 5),
    }
    for message, break_it in breaks.items():
        with pytest.raises(IntegrityError, match=message):
            falsified(break_it).check_integrity()


def test_a_hot_leaf_leaves_no_heap_of_stale_candidates(caches):
    cache = caches(100)
    use(cache, [SYSTEM, DOCUMENTS[0]])
    longest = 0
    for _ in range(100_000):
        cache.lease([SYSTEM, DOCUMENTS[0]], 0).release()
        longest = max(longest, len(cache._policy._heap))
    assert longest <= 2 * len(cache.tree) + 64 + 1
