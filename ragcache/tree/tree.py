"""KnowledgeTree: which documents are cached in which context (RAGCache, section 4.1).

Pure data: a prefix tree over segments. A path from a namespace's root spells a prompt's beginning; a node stands
for the KV of its segment *behind its ancestors*, so [D1, D2] and [D2, D1] share nothing below the system prompt.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from ragcache.tree.segment import Segment

# tiers, fastest first: the index of `Node.places` and `Node.below`
DEVICE, HOST, DISK = range(3)

_ODD = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: multiplying by it spreads the bits of small differences
_WORD = 2**64 - 1


def path_key(parent: int, key: bytes) -> int:
    """64 bits that name a path: the same whenever it is inserted anew, in every process.

    For guesses only (ghost lists, sketches): a collision misleads a policy, it never serves wrong KV.
    """
    return (parent * _ODD + int.from_bytes(key[:8], "little")) & _WORD


# shared by all leaves, which most nodes are: 64 bytes each, and an object less for the garbage collector to visit
_NO_CHILDREN: dict[bytes, Any] = {}


@dataclass(slots=True, eq=False)
class Place:
    """A node's KV on one tier. `copy` is opaque here; None while the KV is on its way, when `arrival` is its move.

    `holders` is the number of leases and moves that keep it there.
    """

    copy: Any = None
    holders: int = 0
    arrival: Any = None


@dataclass(slots=True, eq=False)
class Node:
    """One segment in the context of its ancestors.

    `path_key` names the path down to here, `size` is the number of its own tokens. By tier, `places` has its KV there,
    if there is any, and `below` the number of its children that have a place on that tier: a node with none is a leaf
    of it. `frequency` counts its uses since it was made, `last_use` is the cache's use counter at the last of them.
    `misses` counts the requests that had to compute the node, and `seconds_per_token` is the mean over them of the
    cost of a token that they computed.
    """

    id: int
    parent: Node | None
    key: bytes
    label: str
    tokens: Sequence[int]
    path_key: int
    size: int
    places: list[Place | None]
    below: list[int]
    frequency: int = 0
    last_use: int = 0
    misses: int = 0
    seconds_per_token: float = 0.0
    children: dict[bytes, Node] = field(default_factory=lambda: _NO_CHILDREN)  # the tree alone adds to it

    @property
    def is_root(self) -> bool:
        """Whether this is a namespace's root, which has no segment and no KV."""
        return self.parent is None

    @property
    def kv(self) -> Any:
        """The KV on the device; None if it is not there, or not yet."""
        place = self.places[DEVICE]
        return None if place is None else place.copy

    @property
    def holders(self) -> int:
        """Number of leases and moves that hold the node on the device; each holds all its ancestors there, too."""
        place = self.places[DEVICE]
        return 0 if place is None else place.holders

    def path(self) -> list[Node]:
        """The nodes from the root's child down to this one."""
        nodes = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def missed(self, seconds_per_token: float) -> None:
        """Counts a request that computed the node at this price: PGDSF (3) is the mean over those that missed."""
        self.misses += 1
        self.seconds_per_token += (seconds_per_token - self.seconds_per_token) / self.misses


class _Root(Node):
    """A namespace's root, which the tree may refer to weakly."""

    __slots__ = ("__weakref__",)


class KnowledgeTree:
    """Nodes under a root for each namespace. Roots hold no KV, and `len` does not count them.

    The tree keeps a root while it has nodes. One without nodes lives while others refer to it, so that namespaces that
    come and go leave nothing behind.

    `tiers` is the number of tiers that nodes may have places on.
    """

    def __init__(self, tiers: int = 1) -> None:
        self._tiers = tiers
        self._followers: list[Callable[[Node, bool], None]] = []
        self._roots: dict[str, Node] = {}  # those that have nodes
        self._all_roots: WeakValueDictionary[str, Node] = WeakValueDictionary()
        self._next_id = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def follow(self, follower: Callable[[Node, bool], None]) -> None:
        """Adds a callback for each node that enters (True) or leaves (False); it has no children then."""
        self._followers.append(follower)

    def root(self, namespace: str) -> Node:
        """The root of a namespace: the same while it has nodes or is referred to, later one with the same path key."""
        root = self._roots.get(namespace)
        return self._bare_root(namespace) if root is None else root

    def match(self, root: Node, path: Sequence[Segment]) -> list[Node]:
        """The longest chain of nodes that spells a prefix of `path`. Changes nothing.

        Keys are digests; the tokens themselves are compared, so a collision is a miss and never wrong KV.
        """
        nodes: list[Node] = []
        node = root
        for segment in path:
            child = node.children.get(segment.key)
            if child is None or child.tokens != segment.tokens:
                break
            nodes.append(child)
            node = child
        return nodes

    def insert(self, parent: Node, segment: Segment) -> Node:
        """Adds a child to `parent` and returns it; ValueError if its key is taken."""
        if segment.key in parent.children:
            raise ValueError(f"{parent.label!r} has a child with the key of {segment.label!r} already")
        node = self._node(Node, parent, segment.key, segment.label, segment.tokens)
        if parent.children is _NO_CHILDREN:
            parent.children = {}
            if parent.parent is None:
                self._roots[parent.label] = parent
        parent.children[segment.key] = node
        self._count += 1
        for follower in self._followers:
            follower(node, True)
        return node

    def remove(self, node: Node) -> None:
        """Takes out a leaf that is on no tier; ValueError for any other node."""
        if node.parent is None or node.children or any(node.places):
            raise ValueError(f"node {node.id} ({node.label!r}) is a root, has children or has KV")
        parent = node.parent
        del parent.children[node.key]
        if parent.parent is None and not parent.children:
            parent.children = _NO_CHILDREN
            del self._roots[parent.label]
        self._count -= 1
        for follower in self._followers:
            follower(node, False)

    def nodes(self) -> Iterator[Node]:
        """All nodes but the roots, parents before children."""
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            if not node.is_root:
                yield node
            stack.extend(node.children.values())

    def _bare_root(self, namespace: str) -> Node:
        """The root of a namespace without nodes: the one that is still referred to, or a new one."""
        root = self._all_roots.get(namespace)
        if root is None:
            key = hashlib.blake2b(namespace.encode(), digest_size=8).digest()
            root = self._all_roots[namespace] = self._node(_Root, None, key, namespace, array("i"))
        return root

    def _node(self, kind: type[Node], parent: Node | None, key: bytes, label: str, tokens: Sequence[int]) -> Node:
        self._next_id += 1
        path = path_key(parent.path_key if parent else 0, key)
        count = self._tiers
        return kind(self._next_id, parent, key, label, tokens, path, len(tokens), [None] * count, [0] * count)
