"""Tier: the books of one level of memory, and which node's KV leaves it first."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ragcache.policy import Policy
from ragcache.tree.tree import DEVICE, DISK, HOST, Node, Place

TIER_NAMES = {DEVICE: "device", HOST: "host", DISK: "disk"}


@dataclass(frozen=True, slots=True)
class Balance:
    """Where a tier's bytes are: `free + cached + held = total`, which is its capacity. See Tier."""

    total: int
    free: int
    cached: int
    held: int


@dataclass(slots=True)
class TierCounts:
    """Totals of one tier since the start. The tier alone writes them, with the move that each is of.

    `hits` and `misses` count segments of leased paths, and `hit_tokens` and `missed_tokens` their tokens; below the
    device, those that the faster tiers lacked. `insertions` are nodes whose KV has come to this tier. `evictions` made
    room; `mirrors`, too, but were copies of what the device has, which go first. `losses` left no copy on another tier.
    `rejections` are newcomers that lost against what was there, `orphans` lost an ancestor, `cleared` were dropped by
    request. `refusals` are leases not given. `failures` are moves to or from this tier that failed, by reason.
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

    `free + cached + held` is the capacity at any time: cached are the bytes of nodes that are not held, held those of
    nodes that leases or moves hold, and what leases have reserved. The policy is offered the tier's leaves (nodes
    without a child on this tier) that are not held.

    On the host, a copy of what the device has too is worth least: such mirrors go before the policy is asked, the one
    that has been one for longest first, except those marked with `keep`. An `inclusive` tier asks the policy about
    mirrors like about any other node: for a device that gives up KV unannounced, when it is too late for a copy.
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
        """Bytes that are neither cached nor held."""
        return self.capacity - self.cached - self.held_nodes - self.reserved

    @property
    def unheld_limit(self) -> int:
        """Bytes that would be free if every node that is not held were evicted."""
        return self.capacity - self.held_nodes - self.reserved

    def balance(self) -> Balance:
        """The tier's bytes by their state."""
        return Balance(self.capacity, self.free, self.cached, self.held_nodes + self.reserved)

    # -- moves, each with its entry in the books

    def enter(self, node: Node, copy: Any = None, *, reserved: bool = False) -> Place:
        """Gives a node a place here, held once by the caller, who releases it.

        Without `copy` its KV is on its way: `fill` when it has come, `leave` if it never does. With `reserved` it takes
        bytes that the caller has reserved.
        """
        index, size = self.index, self.footprint(node)
        place = node.places[index] = Place(copy, 1)
        self.nodes += 1
        self.held_nodes += size
        if reserved:
            self.reserved -= size
        if copy is not None:
            self.counts.insertions += 1
        parent = node.parent
        assert parent is not None
        parent.below[index] += 1
        above = parent.places[index]
        if above is not None and not above.holders and parent.below[index] == 1:
            self._withdraw(parent)
        self.policy.inserted(node)
        return place

    def fill(self, place: Place, copy: Any) -> None:
        """The KV of a place of this tier has come."""
        place.copy = copy
        place.arrival = None
        self.counts.insertions += 1

    def leave(self, node: Node, *, evicted: bool = False) -> Place:
        """Takes a node's place away and returns it; its holders hold nothing from then on.

        `evicted` says to the policy that the node was its choice. See `evict`, `reject`, `orphan` and `clear`, which
        count why a node left: a copy that failed is counted by `fail`.
        """
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

    def evict(self, node: Node) -> Place:
        """Takes the place of a victim away to make room, and returns it."""
        mirror = node.id in self._mirrors
        place = self.leave(node, evicted=not mirror)
        if mirror:
            self.counts.mirrors += 1
        else:
            self.counts.evictions += 1
        return place

    def reject(self, node: Node) -> Place:
        """Takes the place of a newcomer away, since the policy prefers what was here, and returns it."""
        self.counts.rejections += 1
        return self.leave(node)

    def orphan(self, node: Node) -> Place:
        """Takes the place of a node away whose ancestor is lost, and returns it: its KV is useless without that."""
        self.counts.orphans += 1
        return self.leave(node)

    def clear(self, node: Node) -> Place:
        """Takes the place of a node away by request, and returns it."""
        self.counts.cleared += 1
        return self.leave(node)

    def lose(self) -> None:
        """Counts that what left here to make room has no copy on any tier."""
        self.counts.losses += 1

    def fail(self, reason: str) -> None:
        """Counts a move to or from this tier that failed; `reason` is a short word."""
        self.counts.failures[reason] += 1

    def refuse(self) -> None:
        """Counts a lease that was not given."""
        self.counts.refusals += 1

    def reserve(self, size: int) -> None:
        """Holds `size` bytes for KV that is to be computed."""
        self.reserved += size

    def unreserve(self, size: int) -> None:
        """Frees `size` bytes that were reserved and have not been entered."""
        self.reserved -= size

    def look_up(self, hits: int, hit_tokens: int, misses: int, missed_tokens: int) -> None:
        """Counts the segments of a leased path that were here, and those that neither this nor a faster tier had."""
        counts = self.counts
        counts.hits += hits
        counts.hit_tokens += hit_tokens
        counts.misses += misses
        counts.missed_tokens += missed_tokens

    def revoke(self, hits: int, hit_tokens: int, misses: int, missed_tokens: int) -> None:
        """Takes back a `look_up`: its lease is broken, and the request asks anew."""
        self.look_up(-hits, -hit_tokens, -misses, -missed_tokens)

    def miss_after_all(self, tokens: int) -> None:
        """A segment counted as a hit could not be loaded, so that `tokens` of it are computed."""
        self.look_up(-1, -tokens, 1, tokens)

    def hold(self, node: Node) -> None:
        """Keeps a node of this tier here until `release`; counts, so that several may hold it."""
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
        """Ends one `hold`; with the last, the node may be evicted once it is a leaf."""
        place = node.places[self.index]
        assert place is not None
        place.holders -= 1
        if not place.holders:
            size = self.footprint(node)
            self.held_nodes -= size
            self.cached += size
            if not node.below[self.index]:
                self._offer(node)

    # -- which node goes first

    def victim(self) -> Node:
        """The node to leave next: a mirror, else the policy's choice. LookupError if none may be evicted."""
        for node in self._mirrors.values():
            return node
        return self.policy.victim()

    def mirrored(self, node: Node) -> None:
        """Notes that the node has entered or left the device, which makes it a mirror here or ends that."""
        place = node.places[self.index]
        if place is None:
            return
        if node.places[DEVICE] is None:
            self._unkeep(node)
        self._mirrors.pop(node.id, None)
        if not place.holders and not node.below[self.index]:
            self._note_mirror(node)

    def keep(self, node: Node) -> None:
        """Treats the node's copy here as no mirror while the device has it too: only the policy may give it up."""
        if node.id not in self._kept:
            self._kept.add(node.id)
            self.kept_bytes += self.footprint(node)
            self._mirrors.pop(node.id, None)

    def keeps(self, node: Node) -> bool:
        """Whether the node is marked with `keep`."""
        return node.id in self._kept

    def _unkeep(self, node: Node) -> None:
        if node.id in self._kept:
            self._kept.remove(node.id)
            self.kept_bytes -= self.footprint(node)

    def contest(self, excess: int, newcomers: Collection[Node]) -> tuple[list[Node], Node | None]:
        """Asks the policy which nodes would leave to free `excess` bytes, `newcomers` being among those here.

        Returns (victims in order, None), or ([], the newcomer) as soon as a newcomer is next. There may be too few
        victims. Changes nothing but what the policy learns of its own choosing.
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
        """All nodes here that are not held, as the policy would give them up one after the other: children first.

        Changes nothing but what the policy learns of its own choosing.
        """
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

    # -- conservation

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
