"""PathMirror: which paths the connectors' knowledge trees have, as far as they have told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ragcache.engine.vllm.wire.bulletin import PathChange
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree, Node, path_key


class KnownPath(NamedTuple):
    """A path's end: its key, and the tokens of its last segment."""

    path_key: int
    size: int


class PathMirror:
    """CachedPaths of other processes. With several engines a path is there while one of them has it.

    By keys of 64 bits alone, without tokens: good for whose turn it is, and for nothing that is served.
    """

    def __init__(self) -> None:
        self._engines: dict[int, int] = {}  # how many have a path, by key
        self._known: dict[int, KnownPath] = {}
        self._roots = KnowledgeTree()
        self._followers: list[Callable[[KnownPath, bool], None]] = []

    def __len__(self) -> int:
        return len(self._known)

    def root(self, namespace: str) -> Node:
        """The namespace's root."""
        # a connector names the namespace of a cache salt so
        return self._roots.root(namespace if namespace == "default" else f"salt {namespace}")

    def match(self, root: Node, path: Sequence[Segment]) -> list[KnownPath]:
        """What is known of a path, from its beginning on."""
        found: list[KnownPath] = []
        key = root.path_key
        for segment in path:
            key = path_key(key, segment.key)
            known = self._known.get(key)
            if known is None:
                break
            found.append(known)
        return found

    def follow(self, follower: Callable[[KnownPath, bool], None]) -> None:
        """To be told of each path that is there from now on (True), or no longer is."""
        self._followers.append(follower)

    def apply(self, changes: Iterable[PathChange]) -> None:
        """Changes of one engine, in order."""
        for key, size, there in changes:
            before = self._engines.get(key, 0)
            after = before + (1 if there else -1)
            if after > 0:
                self._engines[key] = after
            else:
                self._engines.pop(key, None)
            if (before > 0) == (after > 0):
                continue
            known = KnownPath(key, size)
            if there:
                self._known[key] = known
            else:
                del self._known[key]
            for follower in self._followers:
                follower(known, there)
