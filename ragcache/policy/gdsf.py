"""GDSF: greedy-dual-size-frequency with a constant cost (Cherkasova, HPL-98-69R1, 1998)."""

from ragcache.policy.priority import PriorityPolicy
from ragcache.tree.tree import Node


class GDSF(PriorityPolicy):
    """Keeps what is asked for often and is small, as if every miss cost the same whatever its length.

    Room is made before the newcomer's priority is computed, so the newcomer profits from the clock it raised.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0

    def priority(self, node: Node) -> float:
        # Pr(f) = Clock + Fr(f) * Cost(f) / Size(f), with Cost = 1
        return self.clock + node.frequency / node.size

    def evicted(self, priority: float) -> None:
        # Clock = max over the evicted files of Pr(f)
        self.clock = max(self.clock, priority)
