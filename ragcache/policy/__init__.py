"""Which KV is given up first: one protocol, a file a policy."""

from collections.abc import Callable
from typing import Protocol

from ragcache.policy.lru import LRU
from ragcache.policy.stats import NodeStats


class Policy(Protocol):
    """Ranks the nodes of one tier. Pure: no I/O, no clock, equal calls give equal choices.

    The node of lowest priority goes first; ties go to the least recently used, then to the smaller node id.
    """

    def priority(self, node: NodeStats) -> float:
        """Worth of keeping `node`; asked again after each use of it."""

    def evicted(self, priority: float) -> None:
        """Told the priority of each node that was given up."""


POLICIES: dict[str, Callable[[], Policy]] = {"lru": LRU}

__all__ = ["LRU", "POLICIES", "NodeStats", "Policy"]
