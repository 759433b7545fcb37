"""LRU: the node whose last use is longest ago goes first."""

from ragcache.policy.stats import NodeStats


class LRU:
    """Recency alone; no state."""

    def priority(self, node: NodeStats) -> float:
        return float(node.last_use)

    def evicted(self, priority: float) -> None:
        del priority  # nothing ages
