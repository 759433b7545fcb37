"""PathMirror: the paths in the connectors' knowledge trees, as their bulletins report them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ragcache.engine.vllm.wire.bulletin import PathChange
from ragcache.engine.vllm.wire.namespace import namespace_of, salt_of
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree, Node, path_key


class KnownPath(NamedTuple):
    """A CachedPath: the key of the whole path, and the tokens of its last segment."""

    path_key: int
    size: int


class PathMirror:
    """CachedPaths of other processes. With several engine cores a path is cached while one of them has it.

    Paths are known by keys of 64 bits, without tokens: good for whose turn it is, and for nothing that is served.
    """

    def __init__(self) -> None:
        self._cores: dict[int, int] = {}  # how many engine cores have a path, by its key
        self._known: dict[int, KnownPath] = {}  # by key
        self._roots = KnowledgeTree()  # makes roots, and has no nodes
        self._followers: list[Callable[[KnownPath, bool], None]] = []

    def __len__(self) -> int:
        return len(self._known)

    def root(self, namespace: str) -> Node:
        """The node that all paths of a service's namespace begin at."""
        return self._roots.root(namespace_of(salt_of(namespace)))

    def match(self, root: Node, path: Sequence[Segment]) -> list[KnownPath]:
        """The cached prefixes of `path`, shortest first."""
        prefixes: list[KnownPath] = []
        key = root.path_key
        for segment in path:
            key = path_key(key, segment.key)
            known = self._known.get(key)
            if known is None:
                break
            prefixes.append(known)
        return prefixes

    def follow(self, follower: Callable[[KnownPath, bool], None]) -> None:
        """Adds a follower, called with each path that becomes cached (True) or is cached no longer (False)."""
        self._followers.append(follower)

    def apply(self, changes: Iterable[PathChange]) -> None:
        """Takes in changes of one engine core, in order."""
        for key, size, entered in changes:
            before = self._cores.get(key, 0)
            after = before + (1 if entered else -1)
            if after > 0:
                self._cores[key] = after
            else:
                self._cores.pop(key, None)
            if (before > 0) == (after > 0):
                continue
            known = KnownPath(key, size)
            if entered:
                self._known[key] = known
            else:
                del self._known[key]
            for follower in self._followers:
                follower(known, entered)
