"""Belady: the clairvoyant bound (IBM Systems Journal 5(2), 1966). For simulation alone: it needs the future."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from ragcache.policy.priority import PriorityPolicy
from ragcache.tree.tree import Node


class Belady(PriorityPolicy):
    """Evicts the node whose next use is farthest away, and first of all what is never used again.

    `future` gives the steps at which a path will be asked for, by its path key, ascending; the simulation sets `now` to
    the step that runs. With unequal sizes this is a strong baseline and not a bound.
    """

    def __init__(self, future: Mapping[int, Sequence[int]]) -> None:
        super().__init__()
        self.now = -1
        self._future = future

    def priority(self, node: Node) -> float:
        steps = self._future.get(node.path_key, ())
        following = bisect_right(steps, self.now)
        return -float(steps[following]) if following < len(steps) else float("-inf")
