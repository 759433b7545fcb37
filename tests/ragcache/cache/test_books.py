"""A tier's books: the tier alone writes them, each move enters them once, and every listener hears of it."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

import ragcache.cache.tier
from ragcache.cache.cache import KnowledgeCache
from ragcache.cache.tier import Tier, TierCounts
from ragcache.policy import LRU
from ragcache.tree.segment import Segment
from ragcache.tree.tree import DEVICE, DISK, HOST, KnowledgeTree, Node
from tests.props.tiers import DOCUMENTS, SYSTEM, Tiered, computed

TIER_FILE = Path(ragcache.cache.tier.__file__)
COUNTERS = {field.name for field in dataclasses.fields(TierCounts)}
BOOKS = set(vars(Tier(DEVICE, 1, LRU(), len)))
TIERS = {"tier", "device", "host", "disk", "source"}  # names under which code has a tier, with or without underscore


def written(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Attributes that code assigns or deletes, whole or an item of them (`tier.counts.failures["full"] += 1`)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.Delete):
            left = list(node.targets)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For):
            left = [node.target]
        else:
            continue
        while left:
            target = left.pop()
            if isinstance(target, ast.Tuple | ast.List):
                left += target.elts
            elif isinstance(target, ast.Starred | ast.Subscript):
                left.append(target.value)
            elif isinstance(target, ast.Attribute):
                yield target


def trespasses(code: str) -> set[str]:
    """What code writes of a tier: one of its counters, or a field of its books."""
    seen = set()
    for attribute in written(ast.parse(code)):
        owner = attribute.value
        name = (owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")).lstrip("_")
        if (name == "counts" and attribute.attr in COUNTERS) or (name in TIERS and attribute.attr in BOOKS):
            seen.add(ast.unparse(attribute))
    return seen


def test_trespasses_are_seen():
    assert trespasses("tier.counts.hits += 1") == {"tier.counts.hits"}
    assert trespasses("counts = tier.counts\ncounts.misses -= n") == {"counts.misses"}
    assert trespasses("self.disk.counts.failures['full'] += 1") == {"self.disk.counts.failures"}
    assert trespasses("self._device.reserved = 0") == {"self._device.reserved"}
    assert trespasses("a, tier.nodes = 1, 2") == {"tier.nodes"}
    assert trespasses("lease.reserved -= tier.counts.hits\nself.device = Tier(0)\nx[tier.counts.hits] = 1") == set()


def test_nothing_but_the_tier_writes_its_books():
    root = TIER_FILE.parent.parent
    files = [file for file in root.rglob("*.py") if file != TIER_FILE]
    assert len(files) > 100
    guilty = {str(file.relative_to(root)): trespasses(file.read_text(encoding="utf-8")) for file in files}
    assert {file: names for file, names in guilty.items() if names} == {}


@pytest.fixture
def tiers() -> list[Tier]:
    return [Tier(index, 10, LRU(), lambda node: node.size) for index in (DEVICE, HOST, DISK)]


@pytest.fixture
def node() -> Node:
    tree = KnowledgeTree(3)
    return tree.insert(tree.root("default"), Segment.of("node", [1, 2]))


def counted(tier: Tier) -> dict[str, int]:
    """Counters of a tier that are not 0."""
    counts = dataclasses.asdict(tier.counts) | {"failures": tier.counts.failures.total()}
    return {name: count for name, count in counts.items() if count}


def test_what_enters_complete_is_counted_at_once_and_what_is_on_its_way_when_it_comes(tiers, node):
    for tier in tiers[:2]:
        tier.enter(node, "kv")
        assert counted(tier) == {"insertions": 1}
    disk = tiers[2]
    place = disk.enter(node)
    assert counted(disk) == {}
    disk.fill(place, "key")
    assert (place.copy, place.holders) == ("key", 1)
    assert counted(disk) == {"insertions": 1}


def test_what_never_comes_was_never_inserted(tiers, node):
    tier = tiers[0]
    tier.enter(node)
    tier.leave(node)
    assert counted(tier) == {}
    assert (tier.nodes, tier.balance().free) == (0, 10)


@pytest.mark.parametrize(
    ("way", "counter"),
    [("evict", "evictions"), ("reject", "rejections"), ("orphan", "orphans"), ("clear", "cleared"), ("leave", None)],
)
def test_each_way_to_leave_is_counted_once_and_gives_the_bytes_back(tiers, node, way, counter):
    for tier in tiers:
        place = tier.enter(node, "kv")
        tier.release(node)
        assert tier.balance().cached == 2
        assert getattr(tier, way)(node) is place
        assert node.places[tier.index] is None
        assert counted(tier) == {"insertions": 1} | ({counter: 1} if counter else {})
        assert tier.balance().free == tier.capacity


def test_a_mirror_that_makes_room_is_no_eviction(tiers, node):
    device, host, _ = tiers
    device.enter(node, "kv")
    host.enter(node, "copy")
    host.release(node)
    assert host.victim() is node
    host.evict(node)
    assert counted(host) == {"insertions": 1, "mirrors": 1}


def test_look_ups_are_counted_and_can_be_taken_back(tiers):
    tier = tiers[0]
    tier.look_up(2, 20, 3, 30)
    tier.miss_after_all(5)
    assert counted(tier) == {"hits": 1, "hit_tokens": 15, "misses": 4, "missed_tokens": 35}
    tier.revoke(1, 15, 4, 35)
    assert counted(tier) == {}


def test_what_is_refused_failed_or_lost_is_counted_alone(tiers):
    tier = tiers[0]
    tier.refuse()
    tier.fail("full")
    tier.lose()
    assert counted(tier) == {"refusals": 1, "failures": 1, "losses": 1}
    assert tier.counts.failures == {"full": 1}


def test_reserved_bytes_are_held(tiers):
    tier = tiers[0]
    tier.reserve(4)
    assert (tier.balance().held, tier.free, tier.unheld_limit) == (4, 6, 6)
    tier.unreserve(2)
    assert (tier.balance().held, tier.free) == (2, 8)


def test_what_enters_reserved_memory_takes_no_other(tiers, node):
    tier = tiers[0]
    tier.reserve(5)
    tier.enter(node, "kv", reserved=True)
    assert (tier.reserved, tier.balance().held, tier.free) == (3, 5, 5)


def test_every_listener_hears_of_a_move_and_of_room():
    tiered = Tiered(8, host=20)
    moves: list[list[tuple[str, str, Exception | None]]] = [[], []]
    room = [0, 0]

    def hear_room(which: int) -> None:
        room[which] += 1

    for which in range(2):
        tiered.cache.on_moved(lambda *event, which=which: moves[which].append(event))
        tiered.cache.on_room(lambda which=which: hear_room(which))
    tiered.use([SYSTEM, DOCUMENTS[2]])
    tiered.use([Segment.of("other", [90] * 4)])
    assert moves[0] == moves[1] == [("device_to_host", "host", None)]
    assert room == [1, 1]


def test_a_failed_copy_to_the_host_is_a_failure_and_no_insertion():
    tiered = Tiered(8, host=20)
    tiered.use([DOCUMENTS[3]])
    tiered.shelf.reasons.append("memory")
    tiered.use([Segment.of("eight", [95] * 8)])
    assert counted(tiered.cache.hierarchy.host) == {"failures": 1, "misses": 2, "missed_tokens": 12}


def test_a_failed_load_is_no_insertion():
    tiered = Tiered(20, host=40, by_hand=True)
    tiered.use([SYSTEM])
    tiered.cache.hierarchy.copy_to_host(next(tiered.cache.tree.nodes()), next(tiered.cache.tree.nodes()).kv)
    tiered.settle()
    tiered.cache.lose_device()
    before = tiered.cache.counts.insertions
    lease = tiered.cache.lease([SYSTEM], 0)
    assert lease is not None
    assert tiered.cache.counts.insertions == before
    tiered.shelf.reasons.append("memory")
    tiered.settle()
    assert lease.broken
    lease.release()
    assert tiered.cache.counts.insertions == before == 1


def test_a_refused_lease_changes_one_counter():
    cache = KnowledgeCache(8, 1, LRU())
    with cache.lease([SYSTEM], 5) as lease:
        lease.commit(computed(lease))
        before = dataclasses.replace(cache.counts)
        assert cache.lease([DOCUMENTS[0]], 0) is None
        assert cache.counts == dataclasses.replace(before, refusals=before.refusals + 1)
