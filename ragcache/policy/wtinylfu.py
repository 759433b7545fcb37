"""W-TinyLFU: a window for newcomers, and a gate of frequencies behind it (Einziger, Friedman, Manes, TOS 2017)."""

from __future__ import annotations

from typing import Protocol

from ragcache.policy.queues import QueuePolicy
from ragcache.policy.recency import RecencyList
from ragcache.policy.sketch import FrequencySketch
from ragcache.tree.tree import Node

_WINDOW_SHARE = 100  # the window has a hundredth of the capacity,
_PROTECTED = 0.8  # and of the rest the protected segment has four fifths


class Histogram(Protocol):
    """Counts how often each path was asked for lately."""

    def add(self, path_key: int) -> None:
        """Counts a use of the path."""

    def count(self, path_key: int) -> int:
        """The number of uses of the path, or an estimate."""

    def grow(self, nodes: int) -> None:
        """Makes room for the counts of this number of nodes."""


class WTinyLFU(QueuePolicy):
    """Newcomers enter a window kept by recency; what leaves it is a candidate for the main area, a segmented LRU.

    When room is needed, the candidate meets the main area's victim, and the less frequent of the two goes; on a tie
    the candidate. A candidate that won stays one until the room is made, for the newcomer may need more than one.
    """

    def __init__(self, capacity: int, histogram: Histogram | None = None) -> None:
        super().__init__()
        self._window_capacity = max(1, capacity // _WINDOW_SHARE)
        self._protected_capacity = int((capacity - self._window_capacity) * _PROTECTED)
        self._histogram: Histogram = histogram or FrequencySketch()
        self._window, self._probation, self._protected = RecencyList(), RecencyList(), RecencyList()
        self._candidates: dict[int, Node] = {}  # left the window since room was last made; oldest first
        self._arriving = 0  # tokens of the newcomers for which room is made

    def missed(self, path_key: int, size: int) -> None:
        self._histogram.add(path_key)
        self._arriving += size

    def inserted(self, node: Node) -> None:
        self._arriving = 0
        self._candidates.clear()
        self._window.add(node)
        while self._window.size > self._window_capacity and len(self._window) > 1:
            self._to_probation(self._window)  # there is room: no node has to go for it
        self._histogram.grow(len(self._window) + len(self._probation) + len(self._protected))

    def used(self, node: Node) -> None:
        self._histogram.add(node.path_key)
        if node in self._window:
            self._window.touch(node)
        elif node in self._protected:
            self._protected.touch(node)
        else:
            # segmented LRU: a second use promotes, and what falls out of the protected segment is on probation again
            self._probation.remove(node)
            self._candidates.pop(node.id, None)
            self._protected.add(node)
            while self._protected.size > self._protected_capacity:
                self._to_probation(self._protected)

    def _choose(self) -> Node:
        while len(self._window) and self._window.size + self._arriving > self._window_capacity:
            node = self._to_probation(self._window)
            self._candidates[node.id] = node
        candidate = next((node for key, node in self._candidates.items() if key in self._offered), None)
        victim = self._probation.oldest_in(self._offered, self._candidates) or self._protected.oldest_in(self._offered)
        if candidate is None or victim is None:
            node_or_none = victim or candidate or self._window.oldest_in(self._offered)
            assert node_or_none is not None
            return node_or_none
        # TinyLFU: the candidate is admitted if it is more frequent than the victim
        more_frequent = self._histogram.count(candidate.path_key) > self._histogram.count(victim.path_key)
        return victim if more_frequent else candidate

    def _to_probation(self, part: RecencyList) -> Node:
        """The least recently used of the window or the protected segment becomes the youngest on probation."""
        node = part.oldest()
        part.remove(node)
        self._probation.add(node)
        return node

    def _forget(self, node: Node, evicted: bool) -> None:
        del evicted
        self._candidates.pop(node.id, None)
        for part in (self._window, self._probation, self._protected):
            if node in part:
                part.remove(node)
