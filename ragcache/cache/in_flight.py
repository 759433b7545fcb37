"""InFlight: KV that running requests are computing, as nodes that other requests may count on before it is there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from ragcache.cache import hits
from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.lease import Lease
from ragcache.cache.moves import Arrival
from ragcache.errors import IntegrityError
from ragcache.tree.tree import DEVICE, Node


class InFlight:
    """Which lease's request computes which node of a hierarchy now: the lease owns the node until its KV has come.

    A node in flight has a place on the device without KV, whose bytes the owner reserved. Other leases that begin with
    it hold it and wait for its arrival, as they do for a load. That is never later than computing it themselves: the
    owner's turn was before theirs, engines compute prompts in order of turns, and all that the owner still waits for
    (loads, memory) a lease with the same beginning would wait for, too. So there is nothing to estimate.

    Only requests that have all they need compute, and each waits for earlier ones alone: none waits for ever. What an
    owner does not finish goes, with its memory, to the earliest other lease that holds it, or else leaves the tree.

    `enter` books a node that a lease computes, at a price, on the device; `price` is what a token costs a lease that
    computes all that it lacks.
    """

    def __init__(
        self, hierarchy: Hierarchy, enter: Callable[[Lease, Node, Any, float], None], price: Callable[[Lease], float]
    ) -> None:
        self._hierarchy = hierarchy
        self._enter = enter
        self._price = price
        self._owners: dict[Node, Lease] = {}
        self.bytes = 0  # of the device, of nodes in flight

    def tokens_of(self, nodes: Iterable[Node]) -> int:
        """Tokens of those of the nodes that are in flight."""
        return sum(node.size for node in nodes if node in self._owners) if self._owners else 0

    def owners_of(self, nodes: Iterable[Node]) -> Collection[Lease]:
        """The leases whose requests compute one of the nodes."""
        return {self._owners[node] for node in nodes if node in self._owners} if self._owners else ()

    def is_awaited(self, lease: Lease) -> bool:
        """Whether another lease holds a node that this one is to compute."""
        if not self._owners:
            return False
        places = [node.places[DEVICE] for node in lease.nodes if self._owners.get(node) is lease]
        return any(place is not None and place.holders > 1 for place in places)

    def begin(self, lease: Lease) -> None:
        """Gives the segments that a new lease lacks a node each, which it owns and holds."""
        if not lease.missing:
            return
        price = self._price(lease)
        node = lease.nodes[-1] if lease.nodes else lease.root
        for segment in lease.missing:
            if segment.key in node.children:  # a digest collision: what follows stays the request's own
                return
            node = self._hierarchy.tree.insert(node, segment)
            self._enter(lease, node, None, price)
            place = node.places[DEVICE]
            assert place is not None
            place.arrival = Arrival()
            self._owners[node] = lease
            self.bytes += self._hierarchy.device.footprint(node)
            lease.nodes.append(node)

    def land(self, lease: Lease, kv: Sequence[Any]) -> None:
        """Takes in KV of the owner's next segments, and then tells those that wait for it."""
        arrivals: list[Arrival] = []
        landing = lease.nodes[lease.cached + lease.committed :]
        for node, memory in zip(landing, kv, strict=False):  # behind a digest collision there are no nodes
            place = node.places[DEVICE]
            assert place is not None
            arrivals.append(place.arrival)
            self._hierarchy.device.fill(place, memory)
            self._disown(node)
            lease.newcomers += 1
        for arrival in arrivals:
            arrival.finish()

    def end(self, lease: Lease, leases: Collection[Lease]) -> list[Lease]:
        """An owner ends: it lets go of what it has not computed. Returns the heirs, to be told when all is booked.

        `leases` are the others, earliest first.
        """
        left = lease.nodes[lease.cached + lease.committed :]
        if not left or lease.broken:
            return []
        del lease.nodes[lease.cached + lease.committed :]
        inherited: dict[Lease, int] = {}  # depth of the first node, by heir
        for depth, node in enumerate(left, len(lease.nodes)):
            heir = next((other for other in leases if not other.broken and node in other.nodes), None)
            if heir is not None:
                self._owners[node] = heir
                inherited.setdefault(heir, depth)
        for node in reversed(left):  # children before parents
            if self._owners[node] is lease:
                self._remove(node)
            else:
                self._hierarchy.device.release(node)
        for heir, depth in inherited.items():
            self._inherit(heir, depth)
        return list(inherited)

    def lose(self, nodes: Iterable[Node]) -> None:
        """Removes those of the nodes that are in flight: an ancestor of theirs is lost, and nothing holds them."""
        if self._owners:
            for node in sorted({node for node in nodes if node in self._owners}, key=lambda node: -node.id):
                self._remove(node)  # children, which are younger, before parents

    def check(self, leases: Collection[Lease]) -> None:
        """IntegrityError unless each node in flight waits for its KV and is held by its owner, one of the `leases`, and
        their bytes are those in the books."""
        for node, owner in self._owners.items():
            place = node.places[DEVICE]
            if owner not in leases or node not in owner.nodes or place is None or place.copy is not None:
                raise IntegrityError(f"node {node.id} ({node.label!r}) is in flight without a request that computes it")
        size = sum(map(self._hierarchy.device.footprint, self._owners))
        if size != self.bytes:
            raise IntegrityError(f"nodes in flight take {size} bytes of the device, the books say {self.bytes}")

    def _inherit(self, heir: Lease, depth: int) -> None:
        """From this depth of its path on, a lease computes what it has waited for."""
        tiers, nodes = self._hierarchy.tiers(), heir.nodes[depth : heir.cached]
        hits.count(tiers, heir, revoked=True)
        heir.lack(depth)
        hits.count(tiers, heir)
        price = self._price(heir)
        for node in nodes:
            place = node.places[DEVICE]
            assert place is not None
            place.arrival.callbacks.remove(heir.arrived)
            node.missed(price)

    def _disown(self, node: Node) -> None:
        del self._owners[node]
        self.bytes -= self._hierarchy.device.footprint(node)

    def _remove(self, node: Node) -> None:
        self._disown(node)
        self._hierarchy.device.leave(node)
        self._hierarchy.tree.remove(node)
