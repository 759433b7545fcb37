"""KnowledgeCache: tree, policy and the memory of the device tier, behind leases.

Who owns which bytes: a tier's capacity is divided into `free`, `cached` (nodes that nobody holds) and `held` (nodes
under a lease, and memory reserved by a lease for what it computes). The three add up to the capacity at any time.
Not thread-safe: one thread, the service's, calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from ragcache.cost import ConstantCost, PrefillCost
from ragcache.policy import Policy
from ragcache.segment import Segment
from ragcache.tree import KnowledgeTree, Node, path_key

ADMISSIONS = ("always", "competes")


@dataclass(frozen=True, slots=True)
class Balance:
    """Where a tier's bytes are; `total` is its capacity."""

    total: int
    free: int
    cached: int
    held: int


@dataclass(slots=True)
class TierCounts:
    """Totals of one tier since the start. Hits and misses count segments of leased paths.

    `evictions` made room, `rejections` are newcomers that lost against what was there, `refusals` are leases not given.
    """

    hits: int = 0
    misses: int = 0
    hit_tokens: int = 0
    missed_tokens: int = 0
    insertions: int = 0
    evictions: int = 0
    rejections: int = 0
    refusals: int = 0


class IntegrityError(AssertionError):
    """The cache's books do not balance. A bug, never a user's mistake."""


class KnowledgeCache:
    """KV of documents in context, on the device tier.

    `capacity` bytes bound everything: what is kept and what running requests compute. With `keep=False` nothing is
    kept after a lease ends, which is what a service without a knowledge cache would do. `cost` prices what a request
    had to compute, for policies that weigh it.

    Admission: with "always" a newcomer stays when its request ends, and whatever made room for it is gone. With
    "competes" idle nodes leave `working` bytes of the capacity to running requests, and when a request ends its
    newcomers are given up wherever they would have to displace a node that the policy would rather keep.
    """

    def __init__(
        self,
        capacity: int,
        bytes_per_token: int,
        policy: Policy,
        *,
        keep: bool = True,
        cost: PrefillCost | None = None,
        admission: str = "always",
        working: int = 0,
    ) -> None:
        if capacity < bytes_per_token:
            raise ValueError(f"capacity of {capacity} bytes is less than one token ({bytes_per_token} bytes)")
        if admission not in ADMISSIONS:
            raise ValueError(f"admission is one of {', '.join(ADMISSIONS)}, not {admission!r}")
        if not 0 <= working < capacity:
            raise ValueError(f"working memory of {working} bytes does not fit into a capacity of {capacity}")
        self.capacity = capacity
        self.bytes_per_token = bytes_per_token
        self.tree = KnowledgeTree()
        self.counts = TierCounts()
        self._policy = policy
        self._keep = keep
        self._cost: PrefillCost = cost or ConstantCost()
        self._contested = admission == "competes"
        self._stay_limit = capacity - working if self._contested else capacity  # bytes of nodes between requests
        self._uses = 0
        self._leases: set[Lease] = set()
        self._cached = 0  # bytes of nodes that nobody holds
        self._held_nodes = 0  # bytes of nodes under a lease
        self._reserved = 0  # bytes that leases keep for what they compute

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
        hit_tokens = kept = missed_tokens = 0
        for node in nodes:
            hit_tokens += node.size
            if not node.holders:
                kept += node.size
        missing = path[len(nodes) :]
        for segment in missing:
            missed_tokens += len(segment.tokens)
        needed = (missed_tokens + extra_tokens) * self.bytes_per_token
        # all that is cached may go, but for the prefix itself
        if needed > self.capacity - self._held_nodes - self._reserved - kept * self.bytes_per_token:
            self.counts.refusals += 1
            return None
        for node in nodes:
            self._hold(node)
            self._use(node)
            self._policy.used(node)
        if missing:
            key = nodes[-1].path_key if nodes else root.path_key
            for segment in missing:
                key = path_key(key, segment.key)
                self._policy.missed(key, len(segment.tokens))
        self._make_room(needed)
        self._reserved += needed
        lease = Lease(self, root, tuple(path), nodes, needed, hit_tokens, missed_tokens)
        self._leases.add(lease)
        counts = self.counts
        counts.hits += len(nodes)
        counts.misses += len(missing)
        counts.hit_tokens += hit_tokens
        counts.missed_tokens += missed_tokens
        return lease

    def drop_unheld(self) -> tuple[int, int]:
        """Gives up every node that no request holds; returns how many nodes and bytes that were."""
        nodes, size = len(self.tree), self._cached
        if size:
            for node in reversed(list(self.tree.nodes())):  # children before parents
                if not node.holders:
                    self._drop(node, evicted=False)
        return nodes - len(self.tree), size

    def check_integrity(self) -> None:
        """Recounts everything from the tree and the leases; raises IntegrityError if the books differ."""
        holders: dict[int, int] = {}
        for lease in self._leases:
            for node in lease.nodes:
                holders[node.id] = holders.get(node.id, 0) + 1
        cached = held = count = 0
        for node in self.tree.nodes():
            count += 1
            _expect(node.kv is not None, node, "is in the tree without KV")
            _expect(node.holders == holders.get(node.id, 0), node, f"counts {node.holders} holders")
            parent = node.parent
            _expect(parent is not None and parent.children.get(node.key) is node, node, "is not its parent's child")
            _expect(parent is None or parent.is_root or parent.holders >= 1 or not node.holders, node, "is held alone")
            evictable = not node.children and not node.holders
            _expect(self._policy.is_offered(node) == evictable, node, "is wrongly (not) offered to the policy")
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
        if not kv:
            return
        # PGDSF (3), learned by whatever this request missed: T(alpha, beta) / beta
        price = self._cost(lease.cached_tokens, lease.missed_tokens) / lease.missed_tokens
        parent = lease.nodes[-1] if lease.nodes else lease.root
        for segment, memory in zip(lease.missing, kv, strict=True):
            node = parent.children.get(segment.key)
            if node is None:
                node = self.tree.insert(parent, segment)
                node.kv = memory
                node.holders = 1
                size = self._size(node)
                lease.reserved -= size
                self._reserved -= size
                self._held_nodes += size
                self.counts.insertions += 1
                self._use(node)
                node.missed(price)
                self._policy.inserted(node)
                lease.newcomers += 1
            elif node.tokens != segment.tokens:  # a digest collision: this KV stays the request's own
                break
            else:
                self._hold(node)
                self._use(node)
                node.missed(price)
                self._policy.used(node)
            lease.nodes.append(node)
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
                if not node.children:
                    self._policy.offer(node)

    def _hold(self, node: Node) -> None:
        if not node.holders:
            size = self._size(node)
            self._cached -= size
            self._held_nodes += size
            if not node.children:
                self._policy.withdraw(node)
        node.holders += 1

    def _use(self, node: Node) -> None:
        self._uses += 1
        node.frequency += 1
        node.last_use = self._uses

    def _make_room(self, needed: int) -> None:
        while self.capacity - self._cached - self._held_nodes - self._reserved < needed:
            self._evict(self._victim())

    def _victim(self) -> Node:
        """The node that the policy gives up next. The caller knows that there is one."""
        try:
            return self._policy.victim()
        except LookupError as error:
            raise IntegrityError(f"nothing to evict although {self._cached} bytes are cached") from error

    def _evict(self, node: Node) -> None:
        self.counts.evictions += 1
        self._drop(node, evicted=True)

    def _drop(self, node: Node, *, evicted: bool) -> None:
        self.tree.remove(node)
        self._policy.removed(node, evicted=evicted)
        node.kv = None
        self._cached -= self._size(node)
        parent = node.parent
        if parent is not None and not parent.is_root and not parent.holders and not parent.children:
            self._policy.offer(parent)

    def _settle(self, lease: Lease) -> None:
        """Who stays, now that the request has ended: its newcomers, or what they would displace."""
        newcomers = set(lease.nodes[len(lease.nodes) - lease.newcomers :]) if lease.newcomers else set()
        while (excess := self._cached + self._held_nodes - self._stay_limit) > 0:
            victims: list[Node] = []
            loser = None
            while excess > 0 and loser is None:
                try:
                    victim = self._policy.victim()
                except LookupError:
                    break
                if victim in newcomers:
                    loser = victim
                else:
                    self._policy.withdraw(victim)  # asked for the next in line
                    victims.append(victim)
                    excess -= self._size(victim)
            for victim in victims:
                self._policy.offer(victim)
            if loser is not None:  # the others stay, and the clock with them
                self.counts.rejections += 1
                self._drop(loser, evicted=False)
            elif victims:
                for victim in victims:
                    self._evict(victim)
            else:  # the rest is held: its memory is that of running requests until they end
                return

    def _size(self, node: Node) -> int:
        return node.size * self.bytes_per_token

    def _end_lease(self, lease: Lease) -> None:
        self._release(lease)
        if not self._keep:
            self.drop_unheld()
        elif self._contested:
            self._settle(lease)


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
    cached_tokens: int  # of the segments that were found
    missed_tokens: int  # of the others
    newcomers: int = 0  # how many nodes of the path's end this request brought
    cached: int = field(init=False)  # how many segments of the path were found
    _open: bool = True

    def __post_init__(self) -> None:
        self.cached = len(self.nodes)

    @property
    def missing(self) -> tuple[Segment, ...]:
        return self.path[self.cached :]

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
