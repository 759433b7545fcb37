"""What the connector reports, and what the service makes of it: which request goes next, counters, what was dropped."""

import pytest

from ragcache.engine.vllm.front.path_mirror import PathMirror
from ragcache.engine.vllm.scheduler import reporter as reporting
from ragcache.engine.vllm.wire.bulletin import Ended, Work
from ragcache.schedule.order import Order, Waiting
from ragcache.tree.segment import Segment
from tests.props.paged_engine import BLOCK
from tests.props.reported_engine import ReportedEngine

SYSTEM = list(range(100, 106))
DOCUMENTS = [[1000 * n + token for token in range(9 + 5 * n % 17)] for n in range(1, 9)]


@pytest.fixture
def sites():
    made = []

    def make(*arguments, **settings):
        made.append(ReportedEngine(*arguments, **settings))
        return made[-1]

    yield make
    for site in made:
        site.close()


def path(chosen):
    return [Segment.of("system", SYSTEM), *(Segment.of(f"d{n}", DOCUMENTS[n]) for n in chosen)]


def turns(site, *requests):
    order = Order(site.ledger.cached_paths, 32)
    for chosen in requests:
        order.add(Waiting(site.ledger.cached_as(path(chosen)), "default"))
    while (request := order.next()) is not None:
        order.take(request)
        yield requests[request.arrival]


def test_the_order_knows_what_the_connector_has(sites):
    site = sites()
    site.serve(path([2, 3]))
    assert list(turns(site, [0, 1], [4, 6], [2, 5], [2, 3]))[:2] == [[2, 3], [2, 5]]


def test_the_order_follows_what_comes_and_goes_while_requests_wait(sites):
    site = sites()
    order = Order(site.ledger.cached_paths, 32)
    for chosen in ([0, 1], [2, 3]):
        order.add(Waiting(site.ledger.cached_as(path(chosen)), "default"))
    assert order.next().arrival == 0
    site.serve(path([2, 3]))
    site.ledger.refresh()
    assert order.next().arrival == 1
    site.clear()
    site.ledger.refresh()
    assert order.next().arrival == 0


def test_the_mirror_is_the_tree(sites, tmp_path):
    site = sites(tmp_path, blocks=24, host_cache=2000)  # both too small for all
    for step in range(40):
        site.serve(path([step * 7 % 8, step * 5 % 8]))
        site.ledger.refresh()
        tree, mirror = site.engine.cache.tree, site.ledger.cached_paths
        assert len(mirror) == len(tree)
        for node in tree.nodes():
            spelled = [Segment.of("", above.tokens) for above in node.path()]
            assert [known.size for known in mirror.match(mirror.root("default"), spelled)] == [len(s) for s in spelled]


def test_the_first_bulletin_has_what_an_earlier_process_left_on_disk(sites, tmp_path):
    first = sites(tmp_path)
    first.serve(path([0, 1]))
    first.close()
    again = sites(tmp_path)
    again.ledger.refresh()
    assert len(again.ledger.cached_paths) == len(again.engine.cache.tree) > 2
    report = again.ledger.report()
    assert {tier.name: tier.nodes for tier in report.tiers} == {"device": 0, "host": 0, "disk": report.nodes}


def test_a_path_that_two_engines_have_is_there_until_both_have_lost_it():
    mirror, seen = PathMirror(), []
    mirror.follow(lambda known, entered: seen.append((known.path_key, entered)))
    mirror.apply([(5, 10, True)])
    mirror.apply([(5, 10, True)])
    mirror.apply([(5, 10, False)])
    assert seen == [(5, True)]
    mirror.apply([(5, 10, False), (6, 3, False)])  # a path that never entered
    assert seen == [(5, True), (5, False)]
    assert len(mirror) == 0


def test_the_ledger_reports_what_the_connectors_cache_does(sites):
    site = sites(blocks=32)
    for step in range(12):
        site.serve(path([step % 8, (step + 1) % 8]))
    report, cache = site.ledger.report(), site.engine.cache
    assert report.nodes == len(cache.tree)
    for reported, tier in zip(report.tiers, cache.hierarchy.tiers(), strict=True):
        assert (reported.name, reported.nodes, reported.counts) == (tier.name, tier.nodes, tier.counts)
        balance = reported.balance
        assert balance.total == balance.free + balance.cached + balance.held == tier.capacity
    assert report.moves["device_to_host"].moves == cache.hierarchy.moves.counts["device_to_host"].moves > 0
    assert (report.moving, report.unwritten) == (0, 0)


def test_without_news_there_is_no_bulletin(sites):
    site = sites()
    site.serve(path([0]))
    assert len(site.take_bulletins()) == 1
    assert site.take_bulletins() == []
    site.serve(path([0]))
    assert site.take_bulletins() != []


def test_blocks_in_use_are_held(sites):
    site = sites()
    site.serve(path([0]))
    taken = site.engine.pool.take(5)
    device = site.ledger.report().tiers[0].balance
    block = device.total // 64
    assert device.held == (5 - 1) * block  # the pool of the miniature has no block of its own
    site.engine.pool.release(taken)
    assert site.ledger.report().tiers[0].balance.held == 0


def test_what_was_dropped_is_reported_once_it_is_gone(sites, monkeypatch):
    site = sites()
    site.serve(path([0, 1]))
    before = site.ledger.report()
    asked = []
    monkeypatch.setattr(ReportedEngine, "clear", lambda self: asked.append(self))
    assert site.ledger.drop_unheld() == (0, 0)
    assert site.ledger.moving == 1
    assert site.ledger.drop_unheld() == (0, 0)
    assert len(asked) == 1
    site.engine.cache.clear()
    site.reporter.cleared()
    nodes, size = site.ledger.drop_unheld()
    assert (nodes, size) == (before.nodes, sum(tier.balance.cached for tier in before.tiers))
    assert (site.ledger.moving, site.ledger.report().nodes) == (0, 0)
    assert site.serve(path([0, 1])).sources == {"device": 0}  # though the pool itself has forgotten nothing


def test_the_books_are_recounted_while_no_request_is_there(sites, caplog):
    site = sites()
    site.serve(path([0, 1]))
    site.reporter.scheduled(30, 0, 0)
    site.reporter.stepped()
    assert site.recount() >= 1
    assert (site.ledger.report().audits, site.ledger.report().failed_audits) == (1, 0)
    site.reporter.scheduled(30, 0, 0)
    site.reporter.stepped()
    site.ledger.refresh()
    assert not site.reporter.pending  # not again so soon
    site.now += reporting.AUDIT_SECONDS
    site.engine.cache.hierarchy.device.cached += 1
    site.recount()
    assert (site.ledger.report().audits, site.ledger.report().failed_audits) == (1, 1)
    assert "do not balance" in caplog.text


def test_steps_are_timed_while_one_is_under_way(sites):
    site = sites()
    work = []
    for prefill, decode, before, after in ((64, 0, 1.0, 0.5), (0, 0, 2.0, 9.0), (3, 2, 0.0, 0.25)):
        site.now += before
        site.reporter.scheduled(prefill, decode, 1)
        site.now += after
        site.reporter.stepped()
        bulletin = site.reporter.take()
        if bulletin is not None and bulletin.work is not None:
            work.append(bulletin.work)
    assert work[-1] == Work(2, 0.75, 67, 2, 3)
    # the time of two at once counts once
    site.reporter.scheduled(1, 0, 0)
    site.now += 1
    site.reporter.scheduled(1, 0, 0)
    site.now += 1
    site.reporter.stepped()
    site.now += 1
    site.reporter.stepped()
    assert site.reporter.take().work.seconds == 3.75


def test_a_requests_end_says_what_was_computed_and_kept(sites):
    site = sites()
    ticket = site.engine.cache.open("x", [Segment.of("a", range(8)), Segment.of("b", range(8, 20))], "default")
    ticket.cached_tokens, ticket.reached, ticket.sources = 4, 15, {"device": 4}
    site.reporter.ended("name", ticket)
    site.reporter.ended("never begun", None)
    ((_, bulletin),) = site.take_bulletins()
    assert bulletin.ended == {"name": Ended(11, 0, {"device": 4}), "never begun": Ended(0, 0, {})}


def test_failures_of_a_tier_are_reported_and_the_success_that_ends_them(sites, monkeypatch):
    site, moves = sites(), []
    site.ledger.on_moved(lambda direction, tier, error: moves.append((direction, tier, error and error.reason)))
    whole = site.engine.store._paged.gather

    def no_memory(blocks):
        raise MemoryError(f"none for {blocks}")

    monkeypatch.setattr(site.engine.store._paged, "gather", no_memory)
    site.serve(path([0]))
    site.ledger.refresh()
    assert set(moves) == {("device_to_host", "host", "memory")}
    monkeypatch.setattr(site.engine.store._paged, "gather", whole)
    site.serve(path([1]))
    site.ledger.refresh()
    assert moves[-1] == ("device_to_host", "host", None)
    count = len(moves)
    site.serve(path([2]))
    site.ledger.refresh()
    assert len(moves) == count


def test_leases_are_whole_blocks(sites):
    site = sites()
    lease = site.ledger.lease(path([0]), 3)
    assert lease is not None
    tokens = sum(map(len, path([0]))) + 3
    assert site.ledger.balance().held == -(-tokens // BLOCK) * BLOCK * site.bytes_per_token
    lease.release()
    most = site.capacity_tokens - sum(map(len, path([0])))
    assert site.ledger.can_ever_lease(path([0]), most)
    assert not site.ledger.can_ever_lease(path([0]), most + 1)
