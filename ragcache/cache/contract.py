"""Contract: what the service asks of a knowledge cache, wherever the KV lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ragcache.tree.segment import Segment


class CachedPath(Protocol):
    """A path's end: one segment behind its ancestors, `size` tokens long."""

    @property
    def path_key(self) -> int: ...

    @property
    def size(self) -> int: ...


class CachedPaths(Protocol):
    """A knowledge tree, or what is known of one: see KnowledgeTree."""

    def root(self, namespace: str) -> Any: ...

    def match(self, root: Any, path: Sequence[Segment]) -> Sequence[CachedPath]: ...

    def follow(self, follower: Callable[[Any, bool], None]) -> None: ...
