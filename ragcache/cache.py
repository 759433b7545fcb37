"""KnowledgeCache: tree, policy and the memory of the device tier, behind leases.

Who owns which bytes: a tier's capacity is divided into `free`, `cached` (nodes that nobody holds) and `held` (nodes
under a lease, and memory reserved by a lease for what it computes). The three add up to the capacity at any time.
Not thread-safe: one thread, the service's, calls it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from ragcache.policy import Policy
from ragcache.segment import Segment
from ragcache.tree import KnowledgeTree, Node

Candidate = tuple[float, int, int, Node]  # priority, last use, id, node: in the order of eviction


@dataclass(frozen=True, slots=True)
class Balance:
    """Where a tier's bytes are; `total` is its capacity."""

    total: int
    free: int
    cached: int
    held: int


@dataclass(slots=True)
class TierCounts:
    """Totals of one tier since the start. Hits and misses count segments of leased paths."""

    hits: int = 0
    misses: int = 0
    hit_tokens: int = 0
    missed_tokens: int = 0
    insertions: int = 0
    evictions: int = 0
    refusals: int = 0


class IntegrityError(AssertionError):
    """The cache's books do not balance. A bug, never a user's mistake."""


class KnowledgeCache:
    """KV of documents in context, on the device tier.

    `capacity` bytes bound everything: what is kept and what running requests compute. With `keep=False` nothing is
    kept after a lease ends, which is what a service without a knowledge cache would do.
    """

    def __init__(self, capacity: int, bytes_per_token: int, policy: Policy, *, keep: bool = True) -> None:
        if capacity < bytes_per_token:
            raise ValueError(f"capacity of {capacity} bytes is less than one token ({bytes_per_token} bytes)")
        self.capacity = capacity
        self.bytes_per_token = bytes_per_token
        self.tree = KnowledgeTree()
        self.counts = TierCounts()
        self._policy = policy
        self._keep = keep
        self._uses = 0
        self._leases: set[Lease] = set()
        self._cached = 0  # bytes of nodes that nobody holds
        self._held_nodes = 0  # bytes of nodes under a lease
        self._reserved = 0  # bytes that leases keep for what they compute
        # unheld leaves. An entry is stale once its node was used, held, removed or given a child since; stale ones
        # are dropped when they come up
        self._candidates: list[Candidate] = []

    def balance(self) -> Balance:
        held = self._held_nodes + self._reserved
        return Balance(self.capacity, self.capacity - self._cached - held, self._cached, held)

    def bytes_of(self, tokens: int) -> int:
        return tokens * self.bytes_per_token

    def can_ever_lease(self, path: Sequence[Segment], extra_tokens: int) -> bool:
        """Whether an idle cache of this capacity has room for the whole path and `extra_tokens`."""
        return self.bytes_of(sum(map(len, path)) + extra_tokens) <= self.capacity

    def lease(self, path: Sequence[Segment], extra_tokens: int, *, namespace: str = "default") -> Lease | None:
        """Holds the longest cached prefix of `path` and reserves memory for the rest and `extra_tokens`.

        Evicts what it must. Returns None, with nothing changed, if running requests hold too much: never waits.
        """
        root = self.tree.root(namespace)
        nodes = self.tree.match(root, path)
        needed = self.bytes_of(sum(map(len, path[len(nodes) :])) + extra_tokens)
        kept = sum(self._size(node) for node in nodes if not node.holders)
        if needed > self.balance().free + self._cached - kept:
            self.counts.refusals += 1
            return None
        for node in nodes:
            self._hold(node)
        self._make_room(needed)
        self._reserved += needed
        lease = Lease(self, root, tuple(path), nodes, needed)
        self._leases.add(lease)
        self._touch(nodes)
        self._count(path, len(nodes))
        return lease

    def drop_unheld(self) -> tuple[int, int]:
        """Gives up every node that no request holds; returns how many nodes and bytes that were."""
        nodes, size = len(self.tree), self._cached
        while self._cached:
            self._drop(self._pop_candidate())
        return nodes - len(self.tree), size

    def check_integrity(self) -> None:
        """Recounts everything from the tree and the leases; raises IntegrityError if the books differ."""
        holders: dict[int, int] = {}
        for lease in self._leases:
            for node in lease.nodes:
                holders[node.id] = holders.get(node.id, 0) + 1
        cached = held = count = 0
        live = {entry[3].id for entry in self._candidates if self._is_live(entry)}
        for node in self.tree.nodes():
            count += 1
            _expect(node.kv is not None, node, "is in the tree without KV")
            _expect(node.holders == holders.get(node.id, 0), node, f"counts {node.holders} holders")
            parent = node.parent
            _expect(parent is not None and parent.children.get(node.key) is node, node, "is not its parent's child")
            _expect(parent is None or parent.is_root or parent.holders >= 1 or not node.holders, node, "is held alone")
            _expect((node.id in live) == (not node.children and not node.holders), node, "is wrongly (no) candidate")
            if node.holders:
                held += self._size(node)
            else:
                cached += self._size(node)
        reserved = sum(lease.reserved for lease in self._leases)
        balance = self.balance()
        books = (cached, held, reserved, count)
        if books != (self._cached, self._held_nodes, self._reserved, len(self.tree)) or balance.free < 0:
            raise IntegrityError(f"recounted (cached, held, reserved, nodes) {books}, the books say {balance}")
        if balance.free + balance.cached + balance.held != balance.total:
            raise IntegrityError(f"free + cached + held is not the total: {balance}")

    def _commit(self, lease: Lease, kv: Sequence[Any]) -> None:
        computed = lease.path[len(lease.path) - len(kv) :]
        parent = lease.nodes[-1] if lease.nodes else lease.root
        for segment, memory in zip(computed, kv, strict=True):
            node = parent.children.get(segment.key)
            if node is None:
                node = self.tree.insert(parent, segment)
                node.kv = memory
                size = self._size(node)
                lease.reserved -= size
                self._reserved -= size
                self._cached += size  # until the lease holds it, in the next line
                self.counts.insertions += 1
            elif node.tokens != segment.tokens:  # a digest collision: this KV stays the request's own
                break
            self._hold(node)
            lease.nodes.append(node)
            self._touch([node])
            parent = node

    def _release(self, lease: Lease) -> None:
        self._leases.remove(lease)
        self._reserved -= lease.reserved
        lease.reserved = 0
        for node in reversed(lease.nodes):
            node.holders -= 1
            if not node.holders:
                size = self._size(node)
                self._held_nodes -= size
                self._cached += size
                self._offer(node)

    def _hold(self, node: Node) -> None:
        if not node.holders:
            size = self._size(node)
            self._cached -= size
            self._held_nodes += size
        node.holders += 1

    def _touch(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self._uses += 1
            node.frequency += 1
            node.last_use = self._uses

    def _count(self, path: Sequence[Segment], hits: int) -> None:
        self.counts.hits += hits
        self.counts.misses += len(path) - hits
        self.counts.hit_tokens += sum(map(len, path[:hits]))
        self.counts.missed_tokens += sum(map(len, path[hits:]))

    def _make_room(self, needed: int) -> None:
        while self.balance().free < needed:
            entry = self._pop_candidate()
            self._drop(entry)
            self.counts.evictions += 1
            self._policy.evicted(entry[0])

    def _pop_candidate(self) -> Candidate:
        """The unheld leaf of lowest priority. The caller knows that there is one."""
        while True:
            if not self._candidates:
                raise IntegrityError(f"nothing to evict although {self._cached} bytes are cached")
            entry = heapq.heappop(self._candidates)
            if self._is_live(entry):
                return entry

    def _drop(self, entry: Candidate) -> None:
        node = entry[3]
        self.tree.remove(node)
        node.kv = None
        self._cached -= self._size(node)
        if node.parent is not None:
            self._offer(node.parent)

    def _offer(self, node: Node) -> None:
        """Makes `node` a candidate if it is an unheld leaf."""
        if not node.is_root and not node.holders and not node.children:
            heapq.heappush(self._candidates, (self._policy.priority(node), node.last_use, node.id, node))
            if len(self._candidates) > 2 * len(self.tree) + 64:  # more stale than live: a busy leaf leaves many
                self._candidates = [entry for entry in self._candidates if self._is_live(entry)]
                heapq.heapify(self._candidates)

    @staticmethod
    def _is_live(entry: Candidate) -> bool:
        _, last_use, _, node = entry
        return node.kv is not None and not node.holders and not node.children and node.last_use == last_use

    def _size(self, node: Node) -> int:
        return self.bytes_of(len(node.tokens))

    def _end_lease(self, lease: Lease) -> None:
        self._release(lease)
        if not self._keep:
            self.drop_unheld()


@dataclass(slots=True, eq=False)
class Lease:
    """KV that one request may read, and memory that it may fill, until it is released.

    A context manager; releasing twice is harmless. `nodes` are held in path order: those that were cached, and from
    `commit` on those that were computed.
    """

    _cache: KnowledgeCache
    root: Node
    path: tuple[Segment, ...]
    nodes: list[Node]
    reserved: int
    cached: int = field(init=False)  # how many segments of the path were found
    _open: bool = True

    def __post_init__(self) -> None:
        self.cached = len(self.nodes)

    @property
    def missing(self) -> tuple[Segment, ...]:
        return self.path[self.cached :]

    @property
    def cached_tokens(self) -> int:
        return sum(map(len, self.path[: self.cached]))

    def commit(self, kv: Sequence[Any]) -> None:
        """Hands over the KV of the missing segments, complete and in order. Call at most once, while open.

        Where another request was faster, its node serves and this KV stays with the caller until release.
        """
        if not self._open or len(kv) != len(self.missing) or len(self.nodes) != self.cached:
            raise ValueError("a lease is committed once, while open, with the KV of every missing segment")
        self._cache._commit(self, kv)

    def release(self) -> None:
        if self._open:
            self._open = False
            self._cache._end_lease(self)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _expect(condition: bool, node: Node, problem: str) -> None:
    if not condition:
        raise IntegrityError(f"node {node.id} ({node.label!r}) {problem}")
