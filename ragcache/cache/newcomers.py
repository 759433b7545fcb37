"""Newcomers: nodes of KV that requests have computed, each for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.lease import Lease
from ragcache.tree.tree import DEVICE, Node


class Newcomers:
    """Takes computed KV into a hierarchy when it is there: what requests compute meanwhile is theirs alone.

    `enter` books a node that a lease computes, at a price, on the device; `use` counts a use of a node; `price` is what
    a token costs a lease that computes all that it lacks.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        enter: Callable[[Lease, Node, Any, float], None],
        use: Callable[[Node], None],
        price: Callable[[Lease], float],
    ) -> None:
        self._hierarchy = hierarchy
        self._enter = enter
        self._use = use
        self._price = price

    def land(self, lease: Lease, kv: Sequence[Any]) -> None:
        """Takes in KV of a lease's next segments. Where another request was faster, its node serves."""
        if not kv or len(lease.nodes) < lease.cached + lease.committed:  # one of those before stayed the request's own
            return
        tree, device, host = self._hierarchy.tree, self._hierarchy.device, self._hierarchy.host
        price = self._price(lease)
        parent = lease.nodes[-1] if lease.nodes else lease.root
        missing = lease.missing[lease.committed :]
        for segment, memory in zip(missing, kv, strict=False):  # of a prompt half computed, the first ones
            node = parent.children.get(segment.key)
            if node is None:
                node = tree.insert(parent, segment)
                self._enter(lease, node, memory, price)
                lease.newcomers += 1
            elif node.tokens != segment.tokens:  # a digest collision: this KV stays the request's own
                break
            else:
                place = node.places[DEVICE]
                if place is None:  # another request was faster, and its KV has left the device again
                    self._enter(lease, node, memory, price)
                    lease.newcomers += 1
                    if host is not None:
                        host.mirrored(node)
                elif place.copy is None:  # on its way for another request: this KV stays the request's own
                    break
                else:
                    device.hold(node)
                    self._use(node)
                    node.missed(price)
                    device.policy.used(node)
            lease.nodes.append(node)
            parent = node
