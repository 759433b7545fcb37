"""What moves where: swap out once, leaves first, mirrors before others, hot upper nodes kept, failures are misses."""

import pytest

from ragcache.policy import POLICIES
from ragcache.tree.segment import Segment
from ragcache.tree.tree import DEVICE, DISK, HOST
from tests.props.tiers import DOCUMENTS, SYSTEM, Tiered, computed

D0, D1, D2, D3 = DOCUMENTS[:4]  # 1, 2, 3 and 4 tokens
OTHER = Segment.of("other", [90] * 4)


def test_what_the_device_gives_up_goes_to_the_host_and_comes_back():
    tiered = Tiered(8, host=20)
    tiered.use([SYSTEM, D2])
    tiered.use([OTHER])  # 4 tokens, of which 2 are free: D2 goes
    assert tiered.on(DEVICE) == {("system",), ("other",)}
    assert tiered.on(HOST) == {("system", "d2")}
    assert tiered.use([SYSTEM, D2]) == (3, 3, 0)
    assert tiered.cache.hierarchy.moves.counts["host_to_device"].moves == 1


def test_without_tiers_below_it_is_gone():
    tiered = Tiered(8)
    tiered.use([SYSTEM, D2])
    tiered.use([OTHER])
    assert tiered.use([SYSTEM, D2]) == (3, 0, 0)
    assert tiered.cache.counts.losses == tiered.cache.counts.evictions > 0


def test_swapped_out_once():
    """A second eviction of the same node, whose host copy lives, copies nothing."""
    tiered = Tiered(8, host=20)
    for _ in range(5):
        tiered.use([D3])
        tiered.use([OTHER])
        tiered.use([Segment.of("third", [91] * 4)])
    assert tiered.cache.counts.evictions > 6
    assert tiered.cache.hierarchy.moves.counts["device_to_host"].moves == 3
    assert tiered.cache.hierarchy.moves.counts["host_to_device"].moves > 6


def test_a_mirror_makes_room_before_what_only_the_host_has():
    tiered = Tiered(8, host=8, policy="pgdsf")
    tiered.use([D3])
    tiered.use([OTHER])
    tiered.use([Segment.of("third", [91] * 4)])  # the device is full: D3 goes to the host
    tiered.use([D3])  # and comes back, so that its host copy is a mirror; "other" goes to the host
    assert tiered.on(HOST) == {("d3",), ("other",)}
    tiered.use([D2])  # "third" goes: the host is full, and D3 is on the device
    assert tiered.on(HOST) == {("other",), ("third",)}
    host = tiered.cache.hierarchy.host
    assert (host.counts.mirrors, host.counts.evictions) == (1, 0)
    assert host.policy.clock == 0.0  # the policy was not asked, and learned nothing
    assert tiered.cache.hierarchy.device.policy.clock > 0.0


def test_the_host_evicts_leaves_first_and_what_then_is_nowhere_is_lost():
    tiered = Tiered(10, host=9)
    tiered.use([SYSTEM, D1, D2])  # 3 + 2 + 3
    tiered.use([Segment.of("large", [92] * 10)])  # all of it goes to the host, from the leaf up
    assert tiered.on(HOST) == {("system",), ("system", "d1"), ("system", "d1", "d2")}
    tiered.use([OTHER])  # "large" does not fit into the host: it is lost, and makes no other leave
    assert tiered.on(HOST) == {("system",), ("system", "d1"), ("system", "d1", "d2")}
    tiered.use([Segment.of("six", [93] * 7)])  # "other" goes, 4 tokens: the leaf makes room, then the next
    assert tiered.on(HOST) == {("system",), ("system", "d1"), ("other",)}
    assert tiered.use([SYSTEM, D1, D2]) == (0, 5, 0)


def test_hot_upper_nodes_are_kept_on_the_host_and_outlive_the_device():
    tiered = Tiered(40, host=40)
    for document in (D0, D1, D2, D3):
        tiered.use([SYSTEM, document])
    assert tiered.on(HOST) == {("system",)}
    assert tiered.cache.lose_device() == 4
    tiered.cache.check_integrity()
    host = tiered.cache.hierarchy.host
    assert host.kept_bytes == 0
    assert tiered.use([SYSTEM, D1]) == (0, 3, 0)
    assert tiered.use([SYSTEM, D2]) == (3, 0, 0)
    assert host.kept_bytes == 3  # it has been hot all the time


def test_kept_mirrors_take_an_eighth_of_the_host_at_most():
    tiered = Tiered(40, host=16)
    for document in (D0, D1, D2, D3):
        tiered.use([SYSTEM, document])
    assert tiered.on(HOST) == set()  # the system prompt has 3 tokens, and may have 2


def test_the_disk_is_written_behind_parents_first_and_read_when_memory_has_lost():
    tiered = Tiered(9, disk=100)
    tiered.use([SYSTEM, D1])
    assert tiered.on(DISK) == {("system",), ("system", "d1")}
    tiered.use([Segment.of("large", [92] * 9)])
    assert tiered.on(DEVICE) == {("large",)}
    assert tiered.use([SYSTEM, D1]) == (0, 0, 5)


def test_a_running_request_is_not_disturbed_by_the_disk():
    tiered = Tiered(20, disk=100, by_hand=True)
    with tiered.cache.lease([SYSTEM, D1], 0) as lease:
        lease.commit(computed(lease))
        assert tiered.writes.pending == 0
    assert tiered.writes.pending == 1  # one record at a time


def test_the_host_serves_before_the_disk():
    tiered = Tiered(9, host=50, disk=100)
    tiered.use([SYSTEM, D1])
    tiered.use([Segment.of("large", [92] * 9)])
    assert tiered.use([SYSTEM, D1]) == (0, 5, 0)


@pytest.mark.parametrize("reason", ["checksum", "io"])
def test_a_record_that_cannot_be_read_is_a_miss_and_is_removed(reason):
    tiered = Tiered(9, disk=100, by_hand=True)
    tiered.use([SYSTEM, D1])
    tiered.use([Segment.of("large", [92] * 9)])
    assert len(tiered.box.records) == 3
    lease = tiered.cache.lease([SYSTEM, D1], 0)
    assert lease.cached_by_tier == (0, 0, 5)
    tiered.box.reasons.append(reason)
    tiered.settle()
    assert lease.ready
    assert lease.broken
    with pytest.raises(ValueError, match="broken"):
        lease.commit([])
    lease.release()
    tiered.settle()
    # what stood on it is useless, and gone too
    assert len(tiered.box.records) == 1
    disk = tiered.cache.hierarchy.disk
    assert disk.counts.failures == {reason: 1}
    assert disk.counts.hits == 0
    assert disk.counts.hit_tokens == 0
    assert tiered.use([SYSTEM, D1]) == (0, 0, 0)
    assert tiered.use([SYSTEM, D1]) == (5, 0, 0)


def test_a_record_that_is_removed_before_its_read_begins_is_no_failure_of_the_disk():
    """A damaged record takes its descendants along while their reads wait; the disk has failed once."""
    tiered = Tiered(9, disk=100, by_hand=True)
    tiered.use([SYSTEM, D1, D0])
    tiered.use([Segment.of("large", [92] * 9)])
    hierarchy, events = tiered.cache.hierarchy, []
    tiered.cache.on_moved(lambda direction, _, error: events.append((direction, getattr(error, "reason", None))))
    lease = tiered.cache.lease([SYSTEM, D1, D0], 0)
    tiered.box.reasons.append("checksum")  # the system prompt's
    tiered.reads.work()
    tiered.reads.tell()
    while tiered.writes.pending:
        tiered.writes.work()
        tiered.writes.tell()
    assert len(tiered.box.records) == 1
    assert tiered.reads.pending == 2
    tiered.settle()
    assert lease.broken
    lease.release()
    assert hierarchy.disk.counts.failures == {"checksum": 1}
    assert [event for event in events if event[1]] == [("from_disk", "checksum")]
    assert tiered.use([SYSTEM, D1, D0]) == (0, 0, 0)
    assert tiered.use([SYSTEM, D1, D0]) == (6, 0, 0)


def test_a_record_that_went_missing_by_itself_is_a_failure_of_the_disk():
    tiered = Tiered(9, disk=100, by_hand=True)
    tiered.use([SYSTEM, D1])
    tiered.use([Segment.of("large", [92] * 9)])
    tiered.box.records.clear()
    assert tiered.use([SYSTEM, D1]) == (0, 0, 0)
    assert tiered.cache.hierarchy.disk.counts.failures == {"missing": 1}


def test_where_the_host_fails_the_disk_serves():
    tiered = Tiered(9, host=50, disk=100)
    tiered.use([SYSTEM, D1])
    tiered.use([Segment.of("large", [92] * 9)])
    tiered.cache.lose_device()
    tiered.shelf.reasons.append("memory")
    assert tiered.use([SYSTEM, D1]) == (0, 5, 0)
    assert tiered.cache.hierarchy.moves.counts["from_disk"].moves == 1
    assert tiered.cache.hierarchy.host.counts.failures == {"memory": 1}


def test_what_cannot_be_copied_out_is_lost_with_what_stands_on_it():
    tiered = Tiered(8, host=20)
    tiered.use([SYSTEM, D2])
    tiered.use([Segment.of("five", [94] * 5)])  # D2 goes to the host
    assert tiered.on(HOST) == {("system", "d2")}
    tiered.shelf.reasons.append("memory")
    tiered.use([Segment.of("eight", [95] * 8)])  # now the system prompt: D2 is useless without it
    assert ("system",) not in tiered.on(HOST)
    assert ("system", "d2") not in tiered.on(HOST)
    assert tiered.cache.hierarchy.host.counts.orphans == 1
    assert tiered.use([SYSTEM]) == (0, 0, 0)


def test_two_requests_share_one_load_and_its_failure():
    tiered = Tiered(20, host=40, by_hand=True)
    tiered.use([SYSTEM, D1])
    tiered.use([Segment.of("large", [92] * 20)])
    tiered.cache.lose_device()
    first, second = (tiered.cache.lease([SYSTEM, D1], 1) for _ in range(2))
    assert tiered.copies.pending == 2  # two nodes, once each
    tiered.shelf.reasons.append("memory")  # the first load is of the system prompt
    tiered.settle()
    for lease in (first, second):
        assert lease.broken
        assert [node.label for node in lease.nodes] == []
        lease.release()
    tiered.cache.check_integrity()
    assert tiered.cache.balance().held == 0


def test_a_request_that_is_cancelled_while_its_kv_is_loaded_leaves_it_to_others():
    tiered = Tiered(20, host=40, by_hand=True)
    tiered.use([SYSTEM, D1])
    tiered.use([Segment.of("large", [92] * 20)])
    lease = tiered.cache.lease([SYSTEM, D1], 1)
    assert not lease.ready
    lease.release()
    tiered.cache.check_integrity()
    assert tiered.cache.balance().held == 5  # the moves hold it
    tiered.settle()
    assert tiered.cache.balance().held == 0
    assert tiered.use([SYSTEM, D1]) == (5, 0, 0)


def test_while_useless_kv_is_on_its_way_no_request_gets_its_memory():
    tiered = Tiered(9, disk=100, by_hand=True)
    tiered.use([SYSTEM, D1, D0])
    tiered.use([Segment.of("large", [92] * 9)])
    room = []
    tiered.cache.on_room(lambda: room.append(True))
    lease = tiered.cache.lease([SYSTEM, D1, D0], 0)
    tiered.box.reasons.append("checksum")  # the system prompt's
    for _ in range(4):
        tiered.reads.work()
    tiered.reads.tell()  # the other two are under way yet
    assert lease.broken
    lease.release()
    assert tiered.cache.hierarchy.moves.has_strays
    assert tiered.cache.lease([OTHER], 0) is None
    tiered.settle()
    assert room
    assert not tiered.cache.hierarchy.moves.has_strays
    tiered.cache.lease([OTHER], 0).release()


def test_a_lease_that_fills_memory_waits_until_it_is_free():
    tiered = Tiered(8, host=20, by_hand=True)
    tiered.use([D3])
    tiered.use([OTHER])
    lease = tiered.cache.lease([D2], 0)
    assert not lease.ready  # D3 is still being copied out
    lease.release()
    late = tiered.cache.lease([D2], 0)  # though its room was made by the one before
    assert not late.ready
    calls = []
    late.when_ready(lambda: calls.append(True))
    with pytest.raises(ValueError, match="one callback"):  # the first would wait for ever
        late.when_ready(lambda: calls.append(False))
    tiered.settle()
    assert late.ready
    assert calls == [True]
    late.release()


def test_a_full_disk_keeps_serving_and_is_asked_less_often():
    tiered = Tiered(40, disk=100)
    tiered.use([SYSTEM, D0])
    tiered.box.reasons.extend(["full"] * 1000)
    for number in range(100):
        tiered.use([Segment.of(f"n{number}", [200 + number] * 3)])
    failures = tiered.cache.hierarchy.disk.counts.failures["full"]
    assert 3 <= failures <= 12  # of a hundred
    tiered.box.reasons.clear()
    for number in range(300):
        tiered.use([Segment.of(f"m{number}", [400 + number] * 3)])
    assert tiered.cache.hierarchy.disk.nodes > 5
    tiered.cache.check_integrity()


def test_what_is_larger_than_a_tier_is_refused_there_and_nothing_spins():
    tiered = Tiered(30, host=5, disk=4)
    tiered.use([Segment.of("large", [92] * 20)])
    tiered.use([Segment.of("larger", [93] * 30)])
    for tier in tiered.cache.hierarchy.lower:
        assert tier.counts.failures["full"] > 0
        assert tier.nodes == 0


def test_a_probe_changes_nothing():
    tiered = Tiered(20, host=20, disk=40)
    tiered.use([SYSTEM, D1])
    tree = tiered.cache.tree
    before = [(node.frequency, node.last_use) for node in tree.nodes()]
    assert len(tree.match(tree.root("default"), [SYSTEM, D1])) == 2
    assert tiered.cache.can_ever_lease([SYSTEM, D1], 3)
    assert [(node.frequency, node.last_use) for node in tree.nodes()] == before


def test_namespaces_share_nothing_on_any_tier():
    tiered = Tiered(9, host=40, disk=100)
    for _ in range(2):
        for name in ("red", "blue"):
            with tiered.cache.lease([SYSTEM, D1], 0, namespace=name) as lease:
                lease.commit(computed(lease))
            tiered.use([Segment.of("large", [92] * 9)])
    roots = {node.path()[0].parent.label for node in tiered.cache.tree.nodes()}
    assert roots == {"red", "blue", "default"}
    assert len(tiered.box.records) == 2 * 2 + 1
    fresh = tiered.cache.lease([SYSTEM, D1], 0, namespace="green")
    assert fresh.cached_by_tier == (0, 0, 0)
    fresh.release()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_runs_on_every_tier(policy):
    for admission in ("always", "competes"):
        tiered = Tiered(12, host=14, disk=30, policy=policy, admission=admission, working=4)
        for step in range(300):
            tiered.use([SYSTEM, DOCUMENTS[step * step % 7], DOCUMENTS[step * 5 % 6]])
        for tier in tiered.cache.hierarchy.tiers():
            assert tier.counts.hits > 0
            assert tier.counts.evictions + tier.counts.rejections > 0


def test_each_tier_has_a_clock_of_its_own():
    tiered = Tiered(9, host=9, policy="pgdsf")
    for step in range(60):
        tiered.use([DOCUMENTS[step * step % 7], DOCUMENTS[step * 5 % 6]])
    hierarchy = tiered.cache.hierarchy
    clocks = hierarchy.device.policy.clock, hierarchy.host.policy.clock
    assert clocks[0] > 0
    assert clocks[1] > 0
    assert clocks[0] != clocks[1]


def test_a_host_competes_too():
    """With admission "competes" what the host has may be worth more than what the device gives up."""
    tiered = Tiered(8, host=4, policy="lfu", admission="competes", working=4)
    for _ in range(5):
        tiered.use([D3])
        tiered.use([OTHER])
    before = tiered.on(HOST)
    for number in range(5):
        tiered.use([Segment.of(f"once{number}", [200 + number] * 4)])
    assert tiered.on(HOST) == before
    assert tiered.cache.hierarchy.host.counts.rejections > 0


def test_a_cache_that_keeps_nothing_has_no_tiers_below():
    with pytest.raises(ValueError, match="no use for a host"):
        Tiered(8, host=8, keep=False)
