"""KnowledgeCache: which KV is kept, and which requests may read it, behind leases.

Who owns which bytes: each tier's capacity is divided into `free`, `cached` (nodes that are not held) and `held` (nodes
under a lease or a move, and memory reserved by a lease for what it computes). The three add up to the capacity at any
time. Not thread-safe: one thread, the service's, calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from ragcache.cache import hits
from ragcache.cache.contract import CachedPaths
from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.in_flight import InFlight
from ragcache.cache.integrity import recount
from ragcache.cache.interface import DiskTier, HostTier
from ragcache.cache.lease import Lease
from ragcache.cache.loads import Loads
from ragcache.cache.mover import Mover
from ragcache.cache.moves import Arrival
from ragcache.cache.newcomers import Newcomers
from ragcache.cache.records import learned, restore
from ragcache.cache.report import CacheReport
from ragcache.cache.tier import Balance, TierCounts
from ragcache.cache.write_behind import WriteBehind
from ragcache.cost import ConstantCost, PrefillCost
from ragcache.errors import IntegrityError
from ragcache.policy import Policy
from ragcache.reuse import prefix
from ragcache.storage.interface import LoadingHostStore, LoadingRecordStore
from ragcache.tree.segment import Segment
from ragcache.tree.tree import DEVICE, KnowledgeTree, Node

ADMISSIONS = ("always", "competes")

__all__ = ["ADMISSIONS", "Balance", "IntegrityError", "KnowledgeCache", "Lease", "TierCounts", "check_admission"]


def check_admission(name: str, error: type[Exception] = ValueError) -> None:
    """Raises an `error` unless this names an admission."""
    if name not in ADMISSIONS:
        raise error(f"admission is one of {', '.join(ADMISSIONS)}, not {name!r}")


class KnowledgeCache:
    """KV of documents in context, on the device and, if given, on a host and a disk tier below it (see CacheContract).

    `capacity` bytes bound the device: what is kept and what running requests compute, `bytes_per_token` for a token.
    With `keep=False` nothing is kept after a lease ends, as in a service without a knowledge cache. With
    `share_in_flight` a lease may count on KV that another one's request is computing (see InFlight). `cost` prices what
    a request had to compute, for policies that weigh it. `copies` moves KV between device and host, `writes` to disk,
    and `reads` from there, so that no load waits for a write; a mover that is not given moves at once.

    Admission: with "always" a newcomer stays when its request ends, and whatever made room for it is gone. With
    "competes" idle nodes leave `working` bytes of the capacity to running requests, and when a request ends its
    newcomers are given up wherever they would have to displace a node that the policy would rather keep; on the tiers
    below, a newcomer likewise may lose.

    ValueError for settings that contradict each other.
    """

    def __init__(
        self,
        capacity: int,
        bytes_per_token: int,
        policy: Policy,
        *,
        keep: bool = True,
        share_in_flight: bool = False,
        cost: PrefillCost | None = None,
        admission: str = "always",
        working: int = 0,
        host: HostTier[LoadingHostStore] | None = None,
        disk: DiskTier[LoadingRecordStore] | None = None,
        copies: Mover | None = None,
        writes: Mover | None = None,
        reads: Mover | None = None,
    ) -> None:
        if capacity < bytes_per_token:
            raise ValueError(f"capacity of {capacity} bytes is less than one token ({bytes_per_token} bytes)")
        check_admission(admission)
        if not 0 <= working < capacity:
            raise ValueError(f"working memory of {working} bytes does not fit into a capacity of {capacity}")
        if not keep and (host is not None or disk is not None):
            raise ValueError("a cache that keeps nothing has no use for a host or a disk tier")
        if not keep and share_in_flight:
            raise ValueError("a cache that keeps nothing has nothing to share between requests")
        self.capacity = capacity
        self.bytes_per_token = bytes_per_token
        self._contested = admission == "competes"
        self.hierarchy = Hierarchy(
            capacity,
            bytes_per_token,
            policy,
            host,
            disk,
            contested=self._contested,
            copies=copies,
            writes=writes,
            reads=reads,
        )
        self._loads = Loads(
            self.hierarchy,
            None if host is None else host.store,
            None if disk is None else disk.store,
            self._break_leases,
        )
        self._write_behind = None if self.hierarchy.disk is None else WriteBehind(self.hierarchy, self.hierarchy.disk)
        self.tree: KnowledgeTree = self.hierarchy.tree
        self._device = self.hierarchy.device
        self._lower = self.hierarchy.lower
        self._tiers = self.hierarchy.tiers()
        self._policy = policy
        self._keep = keep
        self.shares_in_flight = share_in_flight
        self._cost: PrefillCost = cost or ConstantCost()
        self._stay_limit = capacity - working if self._contested else capacity  # bytes of nodes between requests
        self._uses = 0
        self.activity = 0  # changes with whatever a caller changes
        self._leases: dict[Lease, None] = {}  # earliest first
        self._turns = 0
        self._in_flight = InFlight(self.hierarchy, self._enter, self._price)
        self._newcomers = Newcomers(self.hierarchy, self._enter, self._raise_use, self._price)

    @property
    def counts(self) -> TierCounts:
        """Totals of the device since the start; those of all tiers are in `report`."""
        return self._device.counts

    @property
    def keeps(self) -> bool:
        """Whether KV stays when its request has ended."""
        return self._keep

    @property
    def idle(self) -> bool:
        """Whether no lease is open and nothing moves."""
        return not self._leases and not self.moving

    @property
    def unwritten(self) -> int:
        """Number of nodes that wait to be written to disk."""
        return 0 if self._write_behind is None else len(self._write_behind)

    @property
    def moving(self) -> int:
        """Number of moves under way between tiers."""
        return self.hierarchy.moves.pending

    @property
    def lower_names(self) -> list[str]:
        """Names of the tiers below the device, fastest first."""
        return [tier.name for tier in self._lower]

    @property
    def cached_paths(self) -> CachedPaths:
        """The knowledge tree, for the queue's order to follow."""
        return self.tree

    def cached_as(self, path: Sequence[Segment]) -> Sequence[Segment]:
        """The path itself: the tree has prompts as they are cut."""
        return path

    def refresh(self) -> None:
        """Does nothing: this cache is in this process."""

    def report(self) -> CacheReport:
        """What the cache holds by tier, and its totals since the start."""
        return CacheReport.of(self.hierarchy, self.unwritten)

    def on_moved(self, callback: Callable[[str, str, Exception | None], None]) -> None:
        """Adds a callback for each move that ended: its direction, the slower tier's name, the error if it failed."""
        self.hierarchy.moves.on_moved(callback)

    def on_room(self, callback: Callable[[], None]) -> None:
        """Adds a callback for when a move has ended, so that a refused lease is worth another try."""
        self.hierarchy.moves.on_room(callback)

    def describe(self) -> str:
        """The tiers and their sizes in a line, for people, and the number of segments on disk."""
        sizes = [f"{tier.name} cache {tier.capacity / 2**30:.2f} GiB" for tier in self._tiers]
        on_disk = 0 if self.hierarchy.disk is None else self.hierarchy.disk.nodes
        return ", ".join(sizes) + (f" with {on_disk} segments" if on_disk else "")

    def balance(self) -> Balance:
        """Bytes of the device that are free, cached and held: they add up to `capacity`."""
        return self._device.balance()

    def bytes_of(self, tokens: int) -> int:
        """Bytes of device KV that this number of tokens takes."""
        return tokens * self.bytes_per_token

    def can_ever_lease(self, path: Sequence[Segment], extra_tokens: int) -> bool:
        """Whether an idle cache of this capacity has room for the whole path and `extra_tokens`."""
        return self.bytes_of(sum(map(len, path)) + extra_tokens) <= self.capacity

    def lease(self, path: Sequence[Segment], extra_tokens: int, *, namespace: str = "default") -> Lease | None:
        """Holds the longest cached prefix of `path` and reserves memory for the rest and `extra_tokens`.

        Evicts what it must, and starts to bring to the device what lies below it; the lease says when that is done.
        Returns None, with nothing changed but the count of refusals, if running requests hold too much: never waits.
        """
        self.activity += 1
        device = self._device
        root = self.tree.root(namespace)
        nodes = self.tree.match(root, path)
        on_device = tokens_on_device = idle_tokens = missed_tokens = 0
        for node in nodes:
            place = node.places[DEVICE]
            if place is None:
                break
            on_device += 1  # a prefix of the nodes, for children are there with their parents alone
            tokens_on_device += node.size
            if not place.holders:
                idle_tokens += node.size
        missing = path[len(nodes) :]
        for segment in missing:
            missed_tokens += len(segment.tokens)
        below = nodes[on_device:]
        fetched = sum([node.size for node in below]) * self.bytes_per_token if below else 0
        needed = (missed_tokens + extra_tokens) * self.bytes_per_token
        # all that is cached may go, but for the prefix itself
        room = device.unheld_limit - idle_tokens * self.bytes_per_token
        if needed + fetched > room or (self._lower and self.hierarchy.moves.has_strays):
            device.refuse()
            return None
        for node in nodes[:on_device]:
            device.hold(node)
            self._raise_use(node)
            self._policy.used(node)
        if below or missing:
            hits.tell_misses(self.hierarchy, nodes[-1] if nodes else root, below, missing)
        by_tier, tokens_by_tier = hits.sources(on_device, tokens_on_device, below)
        lease = Lease(self, root, tuple(path), nodes, needed, by_tier, tokens_by_tier, missed_tokens)
        self._leases[lease] = None
        hits.count(self._tiers, lease)
        self.hierarchy.make_room(needed + fetched, below)
        if needed:
            device.reserve(needed)
        if below:
            self._fetch(lease, below)
        if self.shares_in_flight and not lease.broken:
            self._turns += 1
            lease.turn, lease.shared_tokens = self._turns, self._in_flight.tokens_of(nodes)
            self._in_flight.begin(lease)
        if self._lower or self.shares_in_flight:
            self._wait_for_kv(lease, fills=needed > 0)
        return lease

    def held(self, path: Sequence[Segment], *, namespace: str = "default") -> tuple[int, bool]:
        """Tokens of the beginning of `path` that are cached or being computed, and whether that is all of it."""
        nodes = self.tree.match(self.tree.root(namespace), path)
        return prefix.cached_tokens(nodes), len(nodes) == len(path)

    def leaders(self, path: Sequence[Segment], *, namespace: str = "default") -> Collection[Lease]:
        """The leases whose requests compute what `path` begins with: one of it, given now, would wait for them."""
        return self._in_flight.owners_of(self.tree.match(self.tree.root(namespace), path))

    def drop_unheld(self) -> tuple[int, int]:
        """Gives up every node that no request holds, on all tiers; returns the numbers of nodes and of bytes."""
        self.activity += 1
        nodes, size = len(self.tree), 0
        for node in reversed(list(self.tree.nodes())):  # children before parents
            size += self.hierarchy.drop(node)
        return nodes - len(self.tree), size

    def lose_device(self) -> int:
        """Takes all KV off the device that no lease holds; returns the number of nodes that have no copy left."""
        self.activity += 1
        return self.hierarchy.lose_device()

    def check_integrity(self) -> None:
        """Recounts the books at once, from the tree and the leases; IntegrityError if they differ."""
        for _ in self.audit():
            pass

    def audit(self) -> Iterator[None]:
        """`check_integrity` in small steps. To be given up once `activity` has changed between two of them."""
        holders: dict[int, int] = {}
        for lease in self._leases:
            for node in lease.nodes:
                holders[node.id] = holders.get(node.id, 0) + 1
        self._in_flight.check(self._leases)
        yield from recount(self.hierarchy, holders)
        reserved = sum(lease.reserved for lease in self._leases)
        balance = self.balance()
        if reserved != self._device.reserved:
            raise IntegrityError(f"leases reserve {reserved} bytes, the books say {self._device.reserved}: {balance}")

    def restore(self) -> int:
        """Takes in the records that an earlier process left on disk; returns the number of nodes that gives.

        What does not fit, or has no parent, is removed from the disk.
        """
        count, last_use = restore(self.hierarchy)
        self._uses = max(self._uses, last_use)
        return count

    def close(self) -> None:
        """Finishes moves and writes down what the policies learned. Leases are the caller's to release first."""
        self.hierarchy.moves.close()
        if self.hierarchy.disk is not None:
            self.hierarchy.records.close(learned(self.tree.nodes()))

    def commit(self, lease: Lease, kv: Sequence[Any]) -> None:
        """Takes in KV that a request has computed: called by `Lease.commit` alone, see there."""
        (self._in_flight if self.shares_in_flight else self._newcomers).land(lease, kv)

    def end(self, lease: Lease) -> None:
        """Lets go of what a lease holds and reserves: called by `Lease.release` alone."""
        del self._leases[lease]
        heirs = self._in_flight.end(lease, self._leases)
        if lease.reserved:
            self._device.unreserve(lease.reserved)
            lease.reserved = 0
        if self._lower:
            self.hierarchy.keep_upper(lease.nodes)
        for node in reversed(lease.nodes):
            self._device.release(node)
        if not self._keep:
            self.drop_unheld()
        elif self._contested:
            newcomers = lease.nodes[len(lease.nodes) - lease.newcomers :]
            # what others are computing is memory of running requests, as what they reserve
            self.hierarchy.settle(set(newcomers), self._stay_limit + self._in_flight.bytes)
        if self._write_behind is not None:
            self._write_behind.add(lease.nodes)
        for heir in heirs:
            heir.tell()

    def is_awaited(self, lease: Lease) -> bool:
        """Whether another lease waits for KV of this one's request: called by `Lease.awaited` alone."""
        return self._in_flight.is_awaited(lease)

    def _price(self, lease: Lease) -> float:
        """What a token costs the request of a lease that lacks something."""
        # PGDSF (3), learned by whatever this request missed: T(alpha, beta) / beta
        return self._cost(lease.cached_tokens, lease.missed_tokens) / lease.missed_tokens

    def _enter(self, lease: Lease, node: Node, memory: Any, price: float) -> None:
        """Takes over KV that the request computes, and the memory it reserved for that; None while it is to come."""
        lease.reserved -= node.size * self.bytes_per_token
        self._raise_use(node)
        node.missed(price)
        self._device.enter(node, memory, reserved=True)

    def _raise_use(self, node: Node) -> None:
        """Counts a use of the node and tells the tiers below that have it; the device is the caller's to tell."""
        self._uses += 1
        node.frequency += 1
        node.last_use = self._uses
        for tier in self._lower:
            if node.places[tier.index] is not None:
                tier.policy.used(node)

    def _fetch(self, lease: Lease, below: Sequence[Node]) -> None:
        for node in below:
            self._raise_use(node)
            self._loads.expect(node)  # held by the lease from now on
        for node in below:
            if lease.broken:
                return
            self._loads.fetch(node)

    def _wait_for_kv(self, lease: Lease, *, fills: bool) -> None:
        """Makes the lease wait until what it reads has come and, if it `fills` memory, that is free."""
        arrivals: list[Arrival] = list(self.hierarchy.moves.swap_outs) if fills else []
        for node in lease.nodes[: lease.cached]:
            place = node.places[DEVICE]
            if place is not None and place.arrival is not None:
                arrivals.append(place.arrival)
        for arrival in arrivals:
            lease.waiting += 1
            arrival.callbacks.append(lease.arrived)

    def _break_leases(self, node: Node) -> None:
        """Breaks the leases that hold a node which cannot be loaded: their requests have to lease anew, once the end of
        its arrival tells them."""
        lost: list[Node] = []
        for lease in self._leases:
            if node in lease.nodes:
                if not lease.broken:
                    hits.count(self._tiers, lease, revoked=True)
                cut = lease.cut(lease.nodes.index(node))
                for each in reversed(cut):
                    self._device.release(each)
                lost += cut
        self._in_flight.lose(lost)
