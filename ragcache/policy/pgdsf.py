"""PGDSF: greedy-dual-size-frequency with the cost that a prefix-aware prefill really had (RAGCache, section 5.1)."""

from ragcache.policy.priority import PriorityPolicy
from ragcache.tree.tree import Node


class PGDSF(PriorityPolicy):
    """Evicts the node whose KV costs least to compute again, per token, weighed by how often it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0

    def priority(self, node: Node) -> float:
        # (1) Priority = Clock + Frequency * Cost / Size, where by (3)
        # Cost / Size = mean over the requests that missed the node of T(alpha, beta) / beta: a price a token already
        return self.clock + node.frequency * node.seconds_per_token

    def evicted(self, priority: float) -> None:
        # (2) Clock = max over the evicted nodes of Priority: what stays ages against what left
        self.clock = max(self.clock, priority)
