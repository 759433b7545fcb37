"""PriorityPolicy: victims in order of a number, from a heap with lazy invalidation."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod

from ragcache.tree.tree import Node

Entry = tuple[float, int, int, Node]  # priority, last use, id, node: in the order of eviction


class PriorityPolicy(ABC):
    """Evicts the offered node of lowest priority. The priority is that of the node's last use, not of now.

    A node has one live entry in the heap, which may be lower than its priority by now: priorities mostly rise, and an
    entry is raised only when it comes up. So a use costs no walk through the heap.
    """

    def __init__(self) -> None:
        self._priorities: dict[int, float] = {}  # of every node of the tier, by id
        self._offered: dict[int, Entry] = {}
        self._heap: list[Entry] = []
        self._live: dict[int, Entry] = {}  # by node, the one entry of the heap that counts

    @abstractmethod
    def priority(self, node: Node) -> float:
        """The worth of keeping the node, which was used just now: the lowest goes first."""

    def evicted(self, priority: float) -> None:  # noqa: B027 (most policies learn nothing)
        """Called after a node of this priority was evicted."""

    def missed(self, path_key: int, size: int) -> None:
        del path_key, size  # what is not here has no priority

    def inserted(self, node: Node) -> None:
        self._priorities[node.id] = self.priority(node)

    def used(self, node: Node) -> None:
        self._priorities[node.id] = self.priority(node)

    def offer(self, node: Node) -> None:
        key = node.id
        entry = self._offered[key] = (self._priorities[key], node.last_use, key, node)
        live = self._live.get(key)
        if live is None or entry < live:
            self._live[key] = entry
            heapq.heappush(self._heap, entry)
            if len(self._heap) > 2 * len(self._offered) + 64:  # more stale than live
                self._heap = list(self._offered.values())
                self._live = dict(self._offered)
                heapq.heapify(self._heap)

    def withdraw(self, node: Node) -> None:
        del self._offered[node.id]

    def is_offered(self, node: Node) -> bool:
        return node.id in self._offered

    def victim(self) -> Node:
        heap, offered, live = self._heap, self._offered, self._live
        while heap:
            entry = heap[0]
            key = entry[2]
            if live.get(key) is not entry:
                heapq.heappop(heap)
                continue
            now = offered.get(key)
            if now is entry:
                return entry[3]
            if now is None:
                heapq.heappop(heap)
                del live[key]
            else:
                live[key] = now
                heapq.heapreplace(heap, now)
        raise LookupError("no node is offered")

    def removed(self, node: Node, *, evicted: bool) -> None:
        key = node.id
        priority = self._priorities.pop(key)
        entry = self._offered.pop(key, None)
        live = self._live.pop(key, None)
        if entry is not None and entry is live and self._heap[0] is entry:
            heapq.heappop(self._heap)
        if not self._priorities:  # what is left is stale, and would keep nodes that have left the tree
            self._heap.clear()
        if evicted:
            self.evicted(priority)
