"""NodeStats: what a policy may know of a node."""

from typing import Protocol


class NodeStats(Protocol):
    """`last_use` counts uses of the cache, not seconds, so that replays are deterministic."""

    @property
    def frequency(self) -> int:
        """Uses since the node was made."""

    @property
    def last_use(self) -> int:
        """The cache's use counter when the node was used last."""
