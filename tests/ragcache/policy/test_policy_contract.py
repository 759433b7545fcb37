"""What every policy promises, whatever its rule: the contract tests are one mixin, and each policy passes it."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragcache.policy import POLICIES, Belady, Policy
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree, Node
from tests.props.budget import examples

CAPACITY = 40
# (what, which, how large)
WHAT = st.sampled_from(["add", "grow", "use", "hold", "free", "evict", "drop"])
ACTIONS = st.lists(st.tuples(WHAT, st.integers(0, 99), st.integers(1, 6)), max_size=120)
# each policy is an executor of the mixin's tests: that is the point
MIXIN = [HealthCheck.differing_executors]


class Tier:
    """A tier reduced to what a policy sees of it: a tree, holders, and calls in the order of the protocol."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.tree = KnowledgeTree()
        self.root = self.tree.root("default")
        self.clock = 0
        self.holders: Counter[int] = Counter()
        self.evicted: list[int] = []

    @property
    def nodes(self) -> list[Node]:
        return sorted(self.tree.nodes(), key=lambda node: node.id)

    @property
    def evictable(self) -> set[int]:
        return {node.id for node in self.tree.nodes() if not node.children and not self.holders[node.id]}

    def use(self, node: Node) -> None:
        self.clock += 1
        node.frequency += 1
        node.last_use = self.clock

    def add(self, parent: Node, name: int, size: int) -> None:
        segment = Segment(str(name), range(size), bytes([name, size]))
        if segment.key in parent.children:
            return
        if not parent.is_root:
            self.hold(parent)
        node = self.tree.insert(parent, segment)
        self.policy.missed(node.path_key, size)
        self.use(node)
        node.missed(0.5 + name % 7)
        self.policy.inserted(node)
        self.policy.offer(node)
        if not parent.is_root:
            self.free(parent)

    def hold(self, node: Node) -> None:
        if not self.holders[node.id] and not node.children:
            self.policy.withdraw(node)
        self.holders[node.id] += 1

    def free(self, node: Node) -> None:
        self.holders[node.id] -= 1
        if not self.holders[node.id] and not node.children:
            self.policy.offer(node)

    def remove(self, node: Node, *, evicted: bool) -> None:
        parent = node.parent
        assert parent is not None
        self.tree.remove(node)  # raises for what has children
        self.policy.removed(node, evicted=evicted)
        if not parent.is_root and not self.holders[parent.id] and not parent.children:
            self.policy.offer(parent)

    def evict(self) -> None:
        if not self.evictable:
            with pytest.raises(LookupError):
                self.policy.victim()
            return
        victim = self.policy.victim()
        assert victim.id in self.evictable
        assert self.policy.is_offered(victim)
        self.evicted.append(victim.id)
        self.remove(victim, evicted=True)

    def act(self, what: str, which: int, size: int) -> None:
        nodes = self.nodes
        chosen = nodes[which % len(nodes)] if nodes else self.root
        if what == "add" or not nodes:
            self.add(self.root, which, size)
        elif what == "grow":
            self.add(chosen, which, size)
        elif what == "use":
            self.use(chosen)
            self.policy.used(chosen)
        elif what == "hold":
            self.hold(chosen)
        elif what == "free" and self.holders[chosen.id]:
            self.free(chosen)
        elif what == "evict":
            self.evict()
        elif what == "drop" and chosen.id in self.evictable:
            self.remove(chosen, evicted=False)
        assert {node.id for node in self.tree.nodes() if self.policy.is_offered(node)} == self.evictable


class Contract:
    """Subclasses say how the policy is made."""

    make: Callable[[], Policy]

    @given(ACTIONS)
    @settings(max_examples=examples(60), deadline=None, suppress_health_check=MIXIN)
    def test_a_victim_is_an_unheld_leaf_and_equal_calls_give_equal_choices(self, actions: Any) -> None:
        tiers = [Tier(type(self).make()) for _ in range(2)]
        for action in actions:
            for tier in tiers:
                tier.act(*action)
        assert tiers[0].evicted == tiers[1].evicted

    @given(ACTIONS)
    @settings(max_examples=examples(40), deadline=None, suppress_health_check=MIXIN)
    def test_everything_can_be_evicted_once_nothing_is_held(self, actions: Any) -> None:
        tier = Tier(type(self).make())
        for action in actions:
            tier.act(*action)
        for node in tier.nodes:
            while tier.holders[node.id]:
                tier.free(node)
        for _ in range(len(tier.tree)):
            tier.evict()
        assert len(tier.tree) == 0
        tier.evict()  # LookupError, as often as asked

    def test_it_finds_the_one_that_may_go_among_many_in_use(self) -> None:
        tier = Tier(type(self).make())
        for name in range(200):
            tier.add(tier.root, name, 1)
        for _ in range(5):
            for node in tier.nodes:
                tier.use(node)
                tier.policy.used(node)
        for node in tier.nodes[:150] + tier.nodes[151:]:
            tier.hold(node)
        assert tier.policy.victim() is tier.nodes[150]

    def test_what_it_keeps_does_not_grow_with_what_has_passed(self) -> None:
        tier = Tier(type(self).make())
        chance = random.Random(0)
        sizes = []
        for step in range(6000):
            while sum(node.size for node in tier.root.children.values()) >= CAPACITY:
                tier.evict()
            name = chance.randrange(200)
            segment = Segment(str(name), range(1), bytes([name, step % 250]))
            node = tier.tree.insert(tier.root, segment) if segment.key not in tier.root.children else None
            if node is not None:
                tier.policy.missed(node.path_key, 1)
                tier.use(node)
                tier.policy.inserted(node)
                tier.policy.offer(node)
            if step % 1000 == 999:
                sizes.append(footprint(tier.policy))
        assert max(sizes) <= 12 * CAPACITY + 200
        assert sizes[-1] <= 1.5 * sizes[1]


def footprint(policy: Any) -> int:
    """Entries in all the containers of a policy, one level of its parts included; sketches aside."""
    count = 0
    parts = [policy] + [part for part in vars(policy).values() if hasattr(part, "__dict__") and not callable(part)]
    for part in parts:
        for name, value in vars(part).items():
            if name == "_future":  # Belady's is given, not kept
                continue
            if isinstance(value, dict | set | list) and not any(isinstance(item, bytearray) for item in value):
                count += len(value)
    return count


def future(step: int) -> dict[int, list[int]]:
    """Every path comes again, at a step that its key gives."""
    return {key: [key % step] for key in range(1000)}


class TestLRU(Contract):
    make = staticmethod(lambda: POLICIES["lru"](CAPACITY))


class TestLFU(Contract):
    make = staticmethod(lambda: POLICIES["lfu"](CAPACITY))


class TestGDSF(Contract):
    make = staticmethod(lambda: POLICIES["gdsf"](CAPACITY))


class TestPGDSF(Contract):
    make = staticmethod(lambda: POLICIES["pgdsf"](CAPACITY))


class TestARC(Contract):
    make = staticmethod(lambda: POLICIES["arc"](CAPACITY))


class TestSIEVE(Contract):
    make = staticmethod(lambda: POLICIES["sieve"](CAPACITY))


class TestS3FIFO(Contract):
    make = staticmethod(lambda: POLICIES["s3fifo"](CAPACITY))


class TestWTinyLFU(Contract):
    make = staticmethod(lambda: POLICIES["wtinylfu"](CAPACITY))


class TestBelady(Contract):
    make = staticmethod(lambda: Belady(future(97)))


def test_every_policy_has_its_contract_tested():
    tested = {cls.make().__class__ for cls in Contract.__subclasses__()}
    assert {make(CAPACITY).__class__ for make in POLICIES.values()} <= tested
