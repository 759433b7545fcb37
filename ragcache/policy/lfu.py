"""LFU: the node with the fewest uses goes first."""

from ragcache.policy.priority import PriorityPolicy
from ragcache.tree.tree import Node


class LFU(PriorityPolicy):
    """Ranks nodes by frequency alone. Uses are counted from 1 while the node lives, so what was hot once stays long."""

    def priority(self, node: Node) -> float:
        return float(node.frequency)
