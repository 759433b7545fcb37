"""Tier: the books of one level of memory, and whose KV leaves it first."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ragcache.policy import Policy
from ragcache.tree.tree import DEVICE, DISK, HOST, Node, Place

TIER_NAMES = {DEVICE: "device", HOST: "host", DISK: "disk"}


class IntegrityError(AssertionError):
    """The cache's books do not balance. A bug, never a user's mistake."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Where a tier's bytes are; `total` is its capacity."""

    total: int
    free: int
    cached: int
    held: int


@dataclass(slots=True)
class TierCounts:
    """Totals of one tier since the start. Hits and misses count segments of leased paths.

    Below the device, hits and misses are of what the faster tiers lacked. `evictions` made room, and of them `losses`
    left no copy on another tier; `rejections` are newcomers that lost against what was there; `mirrors` are copies of
    what the device has as well, given up first; `orphans` lost an ancestor; `cleared` were dropped by request;
    `refusals` are leases not given. `failures` counts moves to or from this tier that failed, by reason.
    """

    hits: int = 0
    misses: int = 0
    hit_tokens: int = 0
    missed_tokens: int = 0
    insertions: int = 0
    evictions: int = 0
    losses: int = 0
    rejections: int = 0
    mirrors: int = 0
    orphans: int = 0
    cleared: int = 0
    refusals: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class Tier:
    """Which nodes have a place on one tier, what that takes of its `capacity` bytes, and which may be evicted.

    `free + cached + held` is the capacity at any time: cached are the bytes of nodes that nobody holds, held those of
    nodes that leases or moves hold, and what leases have reserved. The policy is offered the tier's leaves (nodes
    without a child on this tier) that nobody holds.

    On the host, a copy of what the device has too is worth least: such mirrors go before the policy is asked, the one
    that has been one for longest first, but for those that `keep` was told of. With `inclusive` the policy is asked of
    mirrors like of any other: for a device that gives up KV without a word, of which no copy can be made then.
    """

    def __init__(
        self,
        index: int,
        capacity: int,
        policy: Policy,
        footprint: Callable[[Node], int],
        *,
        inclusive: bool = False,
    ) -> None:
        self.index = index
        self.name = TIER_NAMES[index]
        self.capacity = capacity
        self.policy = policy
        self.footprint = footprint  # bytes that a node takes here
        self._inclusive = inclusive
        self.counts = TierCounts()
        self.nodes = 0
        self.cached = 0
        self.held_nodes = 0
        self.reserved = 0
        self.kept_bytes = 0  # of mirrors that are to stay
        self._kept: set[int] = set()
        self._mirrors: OrderedDict[int, Node] = OrderedDict()  # those offered

    @property
    def free(self) -> int:
        return self.capacity - self.cached - self.held_nodes - self.reserved

    @property
    def unheld_limit(self) -> int:
        """Bytes that could be free if everything that nobody holds were evicted."""
        return self.capacity - self.held_nodes - self.reserved

    def balance(self) -> Balance:
        return Balance(self.capacity, self.free, self.cached, self.held_nodes + self.reserved)

    def enter(self, node: Node, copy: Any = None) -> Place:
        """The node is here from now on, held once by who brings it."""
        index = self.index
        place = node.places[index] = Place(copy, 1)
        self.nodes += 1
        self.held_nodes += self.footprint(node)
        self.counts.insertions += 1
        parent = node.parent
        assert parent is not None
        parent.below[index] += 1
        above = parent.places[index]
        if above is not None and not above.holders and parent.below[index] == 1:
            self._withdraw(parent)
        self.policy.inserted(node)
        return place

    def leave(self, node: Node, *, evicted: bool) -> Place:
        """The node is here no longer; returns the place it had. Whoever held it there holds nothing."""
        index = self.index
        place = node.places[index]
        assert place is not None
        node.places[index] = None
        self.nodes -= 1
        self._unkeep(node)
        self._mirrors.pop(node.id, None)
        if place.holders:
            self.held_nodes -= self.footprint(node)
        else:
            self.cached -= self.footprint(node)
        self.policy.removed(node, evicted=evicted)
        parent = node.parent
        assert parent is not None
        parent.below[index] -= 1
        above = parent.places[index]
        if above is not None and not above.holders and not parent.below[index]:
            self._offer(parent)
        return place

    def hold(self, node: Node) -> None:
        """Keeps a node of this tier here, until `release`."""
        place = node.places[self.index]
        assert place is not None
        if not place.holders:
            size = self.footprint(node)
            self.cached -= size
            self.held_nodes += size
            if not node.below[self.index]:
                self._withdraw(node)
        place.holders += 1

    def release(self, node: Node) -> None:
        place = node.places[self.index]
        assert place is not None
        place.holders -= 1
        if not place.holders:
            size = self.footprint(node)
            self.held_nodes -= size
            self.cached += size
            if not node.below[self.index]:
                self._offer(node)

    def victim(self) -> Node:
        """Who leaves next: a mirror, else the policy's choice. LookupError if nobody may be evicted."""
        for node in self._mirrors.values():
            return node
        return self.policy.victim()

    def is_mirror(self, node: Node) -> bool:
        """Whether the node may go before the policy is asked."""
        return node.id in self._mirrors

    def mirrored(self, node: Node) -> None:
        """The node entered or left the device."""
        place = node.places[self.index]
        if place is None:
            return
        if node.places[DEVICE] is None:
            self._unkeep(node)
        self._mirrors.pop(node.id, None)
        if not place.holders and not node.below[self.index]:
            self._note_mirror(node)

    def keep(self, node: Node) -> None:
        """The node's copy here stays for as long as the device has one, too, unless the policy gives it up."""
        if node.id not in self._kept:
            self._kept.add(node.id)
            self.kept_bytes += self.footprint(node)
            self._mirrors.pop(node.id, None)

    def keeps(self, node: Node) -> bool:
        return node.id in self._kept

    def _unkeep(self, node: Node) -> None:
        if node.id in self._kept:
            self._kept.remove(node.id)
            self.kept_bytes -= self.footprint(node)

    def contest(self, excess: int, newcomers: Collection[Node]) -> tuple[list[Node], Node | None]:
        """Who would have to leave to free `excess` bytes, if the policy chose between what is here and `newcomers`.

        Returns the victims in order, or, as soon as one of the newcomers is next, that one alone. Changes nothing but
        what the policy learns of its own choosing.
        """
        victims: list[Node] = []
        loser = None
        while excess > 0 and loser is None:
            try:
                victim = self.victim()
            except LookupError:
                break
            if victim in newcomers:
                loser = victim
            else:
                self._withdraw(victim)  # asks for the next in line
                victims.append(victim)
                excess -= self.footprint(victim)
        for victim in victims:
            self._offer(victim)
        return ([], loser) if loser is not None else (victims, None)

    def eviction_order(self) -> list[Node]:
        """All nodes here that nobody holds, in the order in which the policy would give them up, if nothing happened
        between: children before parents. Changes nothing but what the policy learns of its own choosing."""
        index, policy = self.index, self.policy
        order: list[Node] = []
        left: dict[int, int] = {}  # children still here, by node
        while True:
            try:
                node = policy.victim()
            except LookupError:
                break
            policy.withdraw(node)
            order.append(node)
            parent = node.parent
            assert parent is not None
            place = parent.places[index]
            if place is not None and not place.holders:
                left[parent.id] = left.get(parent.id, parent.below[index]) - 1
                if not left[parent.id]:
                    policy.offer(parent)
        for node in order:
            if not node.below[index]:
                policy.offer(node)
        return order

    def audit(self, node: Node, leases: int, *, settled: bool) -> int:
        """Checks a node of this tier; returns its bytes, below zero if it is held.

        `leases` is how many hold it; moves may hold it too, unless all is `settled`.
        """
        place = node.places[self.index]
        assert place is not None
        right = place.holders == leases if settled else place.holders >= leases
        _expect(right, node, f"counts {place.holders} holders on the {self.name}, not {leases}")
        _expect(bool(place.holders) or place.copy is not None, node, f"has no KV on the {self.name}")
        children = sum(child.places[self.index] is not None for child in node.children.values())
        _expect(children == node.below[self.index], node, f"miscounts its children on the {self.name}")
        offered = not place.holders and not children
        _expect(self.policy.is_offered(node) == offered, node, f"is wrongly (not) offered on the {self.name}")
        return -self.footprint(node) if place.holders else self.footprint(node)

    def audit_books(self, cached: int, held: int, nodes: int) -> None:
        """Holds what was recounted against the books."""
        books = (cached, held, nodes)
        if books != (self.cached, self.held_nodes, self.nodes) or self.free < 0 or self.reserved < 0:
            raise IntegrityError(
                f"{self.name}: recounted (cached, held, nodes) {books}, the books say {self.balance()}, of it "
                f"{self.reserved} reserved, and {self.nodes} nodes"
            )

    def _offer(self, node: Node) -> None:
        self.policy.offer(node)
        if self.index == HOST:
            self._note_mirror(node)

    def _withdraw(self, node: Node) -> None:
        self.policy.withdraw(node)
        self._mirrors.pop(node.id, None)

    def _note_mirror(self, node: Node) -> None:
        if node.places[DEVICE] is not None and node.id not in self._kept and not self._inclusive:
            self._mirrors[node.id] = node


def _expect(condition: bool, node: Node, problem: str) -> None:
    if not condition:
        raise IntegrityError(f"node {node.id} ({node.label!r}) {problem}")
