"""LRU: the node whose last use is longest ago goes first."""

from ragcache.policy.priority import PriorityPolicy
from ragcache.tree.tree import Node


class LRU(PriorityPolicy):
    """Ranks nodes by their last use alone."""

    def priority(self, node: Node) -> float:
        return float(node.last_use)
