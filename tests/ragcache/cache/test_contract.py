"""What CacheContract promises, each implementation keeps: memory of leases, callbacks, reports, books that add up."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence

import pytest

from ragcache.cache.contract import CacheContract
from ragcache.cache.lease import Lease
from ragcache.errors import IntegrityError
from ragcache.reuse.plan import Computed
from ragcache.tree.segment import Segment
from tests.ragcache.cache.contract_sites import CAPACITY, DOCUMENTS, SYSTEM, Here, InFlight, InVllm, Site

PATH = [SYSTEM, DOCUMENTS[0], DOCUMENTS[1]]


@pytest.fixture(params=[Here, InFlight, InVllm])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    made: Site = request.param()
    yield made
    made.close()


def known(cache: CacheContract, path: Sequence[Segment], namespace: str = "default") -> int:
    """Tokens at the beginning of `path` that `cached_paths` has."""
    paths = cache.cached_paths
    return sum(known.size for known in paths.match(paths.root(namespace), cache.cached_as(path)))


def leased(cache: CacheContract, path: Sequence[Segment], extra_tokens: int) -> Lease:
    """A lease that the cache has room for."""
    lease = cache.lease(path, extra_tokens)
    assert lease is not None
    return lease


def length(path: Sequence[Segment]) -> int:
    return sum(map(len, path))


@pytest.mark.parametrize("seed", range(4))
def test_memory_is_conserved_whatever_requests_do(site: Site, seed: int) -> None:
    draws, cache = random.Random(seed), site.cache
    leases: list[Lease] = []
    refused = 0
    for _ in range(150):
        if leases and draws.random() < 0.4:
            with leases.pop(draws.randrange(len(leases))) as lease:
                if draws.random() < 0.7 and lease.ready and not lease.broken:
                    site.commit(lease)
        else:
            given = cache.lease([SYSTEM, *draws.sample(DOCUMENTS, 2)], draws.randrange(60))
            refused += given is None
            leases += [] if given is None else [given]
        if draws.random() < 0.5:
            site.settle()
        balance = cache.balance()
        assert balance.free + balance.cached + balance.held == balance.total == cache.capacity
        assert min(balance.free, balance.cached, balance.held) >= 0
        cache.check_integrity()
    assert refused
    for lease in leases:
        assert not cache.idle
        lease.release()
    site.settle()
    assert cache.idle
    assert cache.balance().held == 0
    cache.check_integrity()


@pytest.mark.parametrize("extra", [0, 1, 3, 4, CAPACITY - 24, CAPACITY - 23, CAPACITY - 21, CAPACITY - 20, CAPACITY])
def test_what_can_ever_be_leased_is_what_an_idle_cache_leases(site: Site, extra: int) -> None:
    path = [SYSTEM, DOCUMENTS[2]]
    assert length(path) == 24
    possible = site.cache.can_ever_lease(path, extra)
    assert possible == (24 + extra <= CAPACITY)
    lease = site.cache.lease(path, extra)
    assert (lease is not None) == possible
    if lease is not None:
        lease.release()


def test_a_lease_takes_what_its_path_and_the_rest_need_and_gives_it_back(site: Site) -> None:
    cache = site.cache
    assert cache.capacity == cache.bytes_of(CAPACITY)
    with leased(cache, PATH, 12) as lease:
        assert cache.balance().held == cache.bytes_of(length(PATH) + 12)
        assert [len(segment) for segment in lease.missing] == [len(segment) for segment in PATH]
        assert lease.ready
        site.commit(lease)
        assert cache.balance().held == cache.bytes_of(length(PATH) + 12)
    assert cache.balance().held == 0
    lease.release()  # again: harmless
    assert cache.balance().held == 0


def test_a_leases_plan_covers_its_path_and_computes_what_is_missing(site: Site) -> None:
    site.serve(PATH[:2])
    with leased(site.cache, PATH, 2) as lease:
        site.settle()
        assert [len(piece) for piece in lease.plan] == [len(segment) for segment in PATH]
        computed_tokens = [list(piece.tokens) for piece in lease.plan if isinstance(piece, Computed)]
        assert computed_tokens == [list(segment.tokens) for segment in lease.missing]


def test_a_refused_lease_changes_nothing_but_the_count_of_refusals(site: Site) -> None:
    cache = site.cache
    site.serve(PATH)
    running = leased(cache, [SYSTEM], CAPACITY - 40)
    site.settle()
    balance, before = cache.balance(), copy.deepcopy(cache.report())
    assert cache.lease([SYSTEM, DOCUMENTS[4]], 60) is None
    report = cache.report()
    assert cache.balance() == balance
    assert report.tiers[0].counts.refusals == before.tiers[0].counts.refusals + 1
    report.tiers[0].counts.refusals -= 1
    assert report == before
    running.release()
    again = leased(cache, [SYSTEM, DOCUMENTS[4]], 60)
    again.release()


def test_a_lease_is_committed_while_it_is_open(site: Site) -> None:
    lease = leased(site.cache, PATH, 0)
    lease.release()
    with pytest.raises(ValueError, match="while open"):
        site.commit(lease)


def test_each_segment_of_a_lease_is_committed_once(site: Site) -> None:
    with leased(site.cache, PATH, 0) as lease:
        site.settle()
        site.commit(lease)
        lease.commit([])
        with pytest.raises(ValueError, match="missing segments once"):
            site.commit(lease)
    assert site.cache.balance().held == 0


def test_a_lease_is_committed_piece_by_piece(site: Site) -> None:
    kv = site.kv(PATH)
    with leased(site.cache, PATH, 4) as lease:
        site.settle()
        for committed in range(len(PATH)):
            with pytest.raises(ValueError, match="missing segments once"):
                lease.commit(kv[committed:] + kv[:1])
            lease.commit(kv[committed : committed + 1])
            assert lease.committed == committed + 1
            assert site.cache.balance().held == site.cache.bytes_of(length(PATH) + 4)
            site.cache.check_integrity()
        with pytest.raises(ValueError, match="missing segments once"):
            lease.commit(kv[:1])
    assert site.cache.balance().held == 0


def test_activity_differs_after_each_call_that_leases_or_drops(site: Site) -> None:
    cache = site.cache
    seen = [cache.activity]
    lease = leased(cache, PATH, 0)
    seen.append(cache.activity)
    cache.check_integrity()
    cache.refresh()
    assert (cache.report().tiers, cache.can_ever_lease(PATH, 0)) != ((), False)
    assert cache.activity == seen[-1]
    lease.release()
    cache.drop_unheld()
    seen.append(cache.activity)
    assert len(set(seen)) == 3


def test_idle_is_without_leases(site: Site) -> None:
    cache = site.cache
    assert cache.idle
    first, second = leased(cache, PATH, 0), leased(cache, PATH, 0)
    assert not cache.idle
    first.release()
    assert not cache.idle
    second.release()
    assert cache.idle


@pytest.mark.parametrize("reason", [None, "io"])
def test_every_callback_learns_how_a_move_ended(site: Site, reason: str | None) -> None:
    moves: list[tuple[str, str, str, str | None]] = []

    def note(name: str, direction: str, tier: str, error: Exception | None) -> None:
        moves.append((name, direction, tier, None if error is None else str(getattr(error, "reason", ""))))

    site.cache.on_moved(lambda *move: note("first", *move))
    site.cache.on_moved(lambda *move: note("second", *move))
    site.move(reason)
    site.settle()
    assert moves[-2:] == [(name, "device_to_host", "host", reason) for name in ("first", "second")]


def test_every_callback_learns_of_memory_that_a_move_may_have_freed(site: Site) -> None:
    called: list[str] = []
    site.cache.on_room(lambda: called.append("first"))
    site.cache.on_room(lambda: called.append("second"))
    site.move(None)
    site.settle()
    assert called[:2] == (["first", "second"] if site.moves_free_memory else [])


def test_what_is_cached_is_known_found_and_followed(site: Site) -> None:
    cache = site.cache
    changes: list[tuple[int, bool]] = []
    cache.cached_paths.follow(lambda path, entered: changes.append((path.size, entered)))
    assert cache.keeps
    assert known(cache, PATH) == 0
    assert sum(site.serve(PATH)) == 0
    assert known(cache, PATH) == length(PATH)
    assert changes == [(len(segment), True) for segment in PATH]
    assert sum(site.serve(PATH)) >= length(PATH)
    cache.drop_unheld()
    site.settle()
    assert known(cache, PATH) == 0
    assert sorted(changes[len(PATH) :]) == sorted((len(segment), False) for segment in PATH)


def test_namespaces_share_nothing(site: Site) -> None:
    site.serve(PATH, "mine")
    assert known(site.cache, PATH, "mine") == length(PATH)
    assert known(site.cache, PATH, "yours") == 0
    assert sum(site.serve(PATH, "yours")) == 0
    assert sum(site.serve(PATH, "mine")) >= length(PATH)


def test_dropping_what_no_request_holds_leaves_nothing_and_says_how_much_it_was(site: Site) -> None:
    cache = site.cache
    site.serve(PATH)
    site.settle()
    report = cache.report()
    assert report.nodes == len(PATH)
    nodes, size = cache.drop_unheld()
    while cache.moving:
        site.settle()
        more_nodes, more = cache.drop_unheld()
        nodes, size = nodes + more_nodes, size + more
    assert (nodes, size) == (len(PATH), sum(tier.balance.cached for tier in report.tiers))
    after = cache.report()
    assert (after.nodes, sum(tier.balance.cached for tier in after.tiers)) == (0, 0)
    assert sum(site.serve(PATH)) == 0


def test_leases_outlive_what_is_dropped(site: Site) -> None:
    cache = site.cache
    lease = leased(cache, PATH, 4)
    held = cache.balance().held
    cache.drop_unheld()
    site.settle()
    assert cache.balance().held == held
    site.commit(lease)
    lease.release()
    assert cache.balance().held == 0


def test_a_report_names_the_tiers_and_adds_up(site: Site) -> None:
    cache = site.cache
    for document in DOCUMENTS:
        site.serve([SYSTEM, document])
    site.settle()
    report = cache.report()
    assert [tier.name for tier in report.tiers] == ["device", *cache.lower_names]
    assert report.nodes == 1 + len(DOCUMENTS)
    for tier in report.tiers:
        balance = tier.balance
        assert balance.total == balance.free + balance.cached + balance.held
        assert tier.nodes <= report.nodes
    device = report.tiers[0]
    assert device.balance.total == cache.capacity
    assert device.counts.hits + device.counts.misses >= 2 * len(DOCUMENTS)
    assert (report.moving, report.unwritten) == (cache.moving, cache.unwritten) == (0, 0)


def test_a_recount_notices_books_that_are_wrong_by_a_byte(site: Site) -> None:
    cache = site.cache
    lease = leased(cache, PATH, 0)
    lease.release()
    for _ in cache.audit():
        pass
    site.falsify()
    with pytest.raises(IntegrityError):
        for _ in cache.audit():
            pass
    with pytest.raises(IntegrityError):
        cache.check_integrity()


def test_bytes_are_those_of_tokens(site: Site) -> None:
    assert site.cache.bytes_of(0) == 0
    assert site.cache.bytes_of(30) == 30 * site.cache.bytes_of(1) > 0


def test_it_describes_itself_in_a_line_and_closes(site: Site) -> None:
    assert "GiB" in site.cache.describe()
    assert "\n" not in site.cache.describe()
    site.serve(PATH)
    site.settle()
    site.cache.close()
    assert site.cache.moving == 0


def test_what_is_held_of_a_path_is_what_a_request_would_not_compute(site: Site) -> None:
    cache, other = site.cache, [SYSTEM, DOCUMENTS[2]]
    assert cache.held(PATH) == (0, False)
    site.serve(PATH[:2])
    site.settle()
    assert cache.held(PATH) == (length(PATH[:2]), False)
    assert cache.held(PATH[:2]) == (length(PATH[:2]), True)
    assert cache.held(PATH, namespace="other") == (0, False)
    before = cache.activity
    cache.held(PATH)
    assert cache.activity == before
    lease = leased(cache, other, 0)
    shared = cache.shares_in_flight or isinstance(site, InVllm)  # which shares by itself what it computes
    assert cache.held(other) == ((length(other), True) if shared else (length([SYSTEM]), False))
    lease.release()
    assert cache.held(other) == (length([SYSTEM]), False)
