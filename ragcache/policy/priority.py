"""PriorityPolicy: victims in order of a number, from a heap with lazy invalidation."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod

from ragcache.tree import Node

Entry = tuple[float, int, int, Node]  # priority, last use, id, node: in the order of eviction


class PriorityPolicy(ABC):
    """Evicts the offered node of lowest priority. The priority is that of the node's last use, not of now."""

    def __init__(self) -> None:
        self._priorities: dict[int, float] = {}  # of every node of the tier, by id
        self._offered: dict[int, Entry] = {}
        # the entry of an offered node, and stale ones of withdrawn or removed nodes until they come up
        self._heap: list[Entry] = []

    @abstractmethod
    def priority(self, node: Node) -> float:
        """Worth of keeping the node, which was used just now."""

    def evicted(self, priority: float) -> None:  # noqa: B027 (most policies learn nothing)
        """A node of this priority was evicted."""

    def missed(self, path_key: int, size: int) -> None:
        del path_key, size  # what is not here has no priority

    def inserted(self, node: Node) -> None:
        self._priorities[node.id] = self.priority(node)

    def used(self, node: Node) -> None:
        self._priorities[node.id] = self.priority(node)

    def offer(self, node: Node) -> None:
        entry = (self._priorities[node.id], node.last_use, node.id, node)
        self._offered[node.id] = entry
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._offered) + 64:  # more stale than live: a busy leaf leaves many
            self._heap = list(self._offered.values())
            heapq.heapify(self._heap)

    def withdraw(self, node: Node) -> None:
        del self._offered[node.id]

    def is_offered(self, node: Node) -> bool:
        return node.id in self._offered

    def victim(self) -> Node:
        heap = self._heap
        while heap:
            entry = heap[0]
            if self._offered.get(entry[2]) is entry:
                return entry[3]
            heapq.heappop(heap)
        raise LookupError("no node is offered")

    def removed(self, node: Node, *, evicted: bool) -> None:
        priority = self._priorities.pop(node.id)
        self._offered.pop(node.id, None)
        if evicted:
            self.evicted(priority)
