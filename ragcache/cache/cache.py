"""KnowledgeCache: whose KV is kept, for whom, behind leases.

Who owns which bytes: each tier's capacity is divided into `free`, `cached` (nodes that nobody holds) and `held` (nodes
under a lease or a move, and memory reserved by a lease for what it computes). The three add up to the capacity at any
time. Not thread-safe: one thread, the service's, calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ragcache.cache.contract import CachedPaths
from ragcache.cache.hierarchy import Arrival, Hierarchy
from ragcache.cache.interface import DiskTier, HostTier
from ragcache.cache.lease import Lease, Sources
from ragcache.cache.mover import Mover
from ragcache.cache.report import CacheReport
from ragcache.cache.tier import Balance, IntegrityError, TierCounts
from ragcache.cache.write_behind import WriteBehind
from ragcache.cost import ConstantCost, PrefillCost
from ragcache.policy import Policy
from ragcache.tree.segment import Segment
from ragcache.tree.tree import DEVICE, DISK, HOST, KnowledgeTree, Node, path_key

ADMISSIONS = ("always", "competes")

__all__ = ["ADMISSIONS", "Balance", "IntegrityError", "KnowledgeCache", "Lease", "TierCounts"]


class KnowledgeCache:
    """KV of documents in context, on the device and, if given, on a host and a disk tier below it.

    `capacity` bytes bound the device: what is kept and what running requests compute. With `keep=False` nothing is
    kept after a lease ends, which is what a service without a knowledge cache would do. `cost` prices what a request
    had to compute, for policies that weigh it. `copies` moves KV between device and host, `writes` to disk, and `reads`
    from there: nobody should wait for a write.

    Admission: with "always" a newcomer stays when its request ends, and whatever made room for it is gone. With
    "competes" idle nodes leave `working` bytes of the capacity to running requests, and when a request ends its
    newcomers are given up wherever they would have to displace a node that the policy would rather keep; on the tiers
    below, a newcomer likewise may lose.
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
        host: HostTier | None = None,
        disk: DiskTier | None = None,
        copies: Mover | None = None,
        writes: Mover | None = None,
        reads: Mover | None = None,
    ) -> None:
        if capacity < bytes_per_token:
            raise ValueError(f"capacity of {capacity} bytes is less than one token ({bytes_per_token} bytes)")
        if admission not in ADMISSIONS:
            raise ValueError(f"admission is one of {', '.join(ADMISSIONS)}, not {admission!r}")
        if not 0 <= working < capacity:
            raise ValueError(f"working memory of {working} bytes does not fit into a capacity of {capacity}")
        if not keep and (host is not None or disk is not None):
            raise ValueError("a cache that keeps nothing has no use for a host or a disk tier")
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
        self.hierarchy.on_lost = self._break_leases
        self._write_behind = None if self.hierarchy.disk is None else WriteBehind(self.hierarchy, self.hierarchy.disk)
        self.tree: KnowledgeTree = self.hierarchy.tree
        self._device = self.hierarchy.device
        self._lower = self.hierarchy.lower
        self._tiers = self.hierarchy.tiers()
        self._policy = policy
        self._keep = keep
        self._cost: PrefillCost = cost or ConstantCost()
        self._stay_limit = capacity - working if self._contested else capacity  # bytes of nodes between requests
        self._uses = 0
        self.activity = 0  # changes with whatever a caller changes
        self._leases: set[Lease] = set()

    @property
    def counts(self) -> TierCounts:
        """The device's."""
        return self._device.counts

    @property
    def keeps(self) -> bool:
        """Whether KV stays when its request has ended."""
        return self._keep

    @property
    def idle(self) -> bool:
        """Whether no lease is open and nothing moves."""
        return not self._leases and not self.hierarchy.moving

    @property
    def unwritten(self) -> int:
        """Nodes that wait to be written to disk."""
        return 0 if self._write_behind is None else len(self._write_behind)

    @property
    def moving(self) -> int:
        """Moves under way."""
        return self.hierarchy.moving

    @property
    def lower_names(self) -> list[str]:
        """The tiers below the device."""
        return [tier.name for tier in self._lower]

    @property
    def cached_paths(self) -> CachedPaths:
        """What is cached, for an order to follow."""
        return self.tree

    def cached_as(self, path: Sequence[Segment]) -> Sequence[Segment]:
        """The path under which `cached_paths` would have this one."""
        return path

    def refresh(self) -> None:
        """Takes in what a cache elsewhere has told since; nothing where the cache is here."""

    def report(self) -> CacheReport:
        """What it holds, and what became of it."""
        return CacheReport.of(self.hierarchy, self.unwritten)

    def on_moved(self, callback: Callable[[str, str, Exception | None], None]) -> None:
        """To be told how moves ended: what it was, the slower tier's name, and the error if it failed."""
        self.hierarchy.on_moved = lambda what, tier, error: callback(what, tier.name, error)

    def on_room(self, callback: Callable[[], None]) -> None:
        """To be called when a move has ended: who was refused a lease may get one now."""
        self.hierarchy.on_room = callback

    def describe(self) -> str:
        """The tiers and their sizes, and what was found on disk, for people."""
        sizes = [f"{tier.name} cache {tier.capacity / 2**30:.2f} GiB" for tier in self._tiers]
        found = 0 if self.hierarchy.disk is None else self.hierarchy.disk.nodes
        return ", ".join(sizes) + (f" with {found} segments" if found else "")

    def balance(self) -> Balance:
        """The device's."""
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
        Returns None, with nothing changed, if running requests hold too much: never waits.
        """
        self.activity += 1
        device = self._device
        root = self.tree.root(namespace)
        nodes = self.tree.match(root, path)
        on_device = there = kept = missed_tokens = 0
        for node in nodes:
            place = node.places[DEVICE]
            if place is None:
                break
            there += 1  # nodes on the device: a prefix of those found
            on_device += node.size
            if not place.holders:
                kept += node.size
        missing = path[len(nodes) :]
        for segment in missing:
            missed_tokens += len(segment.tokens)
        below = nodes[there:]
        fetched = sum([node.size for node in below]) * self.bytes_per_token if below else 0
        needed = (missed_tokens + extra_tokens) * self.bytes_per_token
        # all that is cached may go, but for the prefix itself
        room = device.unheld_limit - kept * self.bytes_per_token
        if needed + fetched > room or (self._lower and self.hierarchy.has_strays):
            device.counts.refusals += 1
            return None
        for node in nodes[:there]:
            device.hold(node)
            self._raise_use(node)
            self._policy.used(node)
        if below or missing:
            self._tell_misses(nodes[-1] if nodes else root, below, missing)
        found, tokens = self._sources(there, on_device, below)
        lease = Lease(self, root, tuple(path), nodes, needed, found, tokens, missed_tokens)
        self._leases.add(lease)
        self._count(lease, 1)
        self._make_room(needed + fetched, below)
        device.reserved += needed
        if below:
            self._fetch(lease, below)
        if self._lower:
            self._wait_for_moves(lease)
        return lease

    def drop_unheld(self) -> tuple[int, int]:
        """Gives up every node that no request holds, on all tiers; returns how many nodes and bytes that were."""
        self.activity += 1
        nodes, size = len(self.tree), 0
        for node in reversed(list(self.tree.nodes())):  # children before parents
            size += self.hierarchy.drop(node)
        return nodes - len(self.tree), size

    def lose_device(self) -> int:
        """The device's KV is gone, but for what leases hold; returns how many nodes have no copy left.

        What the host or the disk has stays, down to the first node of a path that is on neither.
        """
        self.activity += 1
        before = len(self.tree)
        for node in reversed(list(self.tree.nodes())):
            place = node.places[DEVICE]
            if place is not None and not place.holders and not node.below[DEVICE]:
                self._device.leave(node, evicted=False)
                if any(node.places):
                    if self.hierarchy.host is not None:
                        self.hierarchy.host.mirrored(node)
                else:
                    self.hierarchy.forget(node)
        return before - len(self.tree)

    def check_integrity(self) -> None:
        """Recounts everything from the tree and the leases; raises IntegrityError if the books differ."""
        for _ in self.audit():
            pass

    def audit(self) -> Iterator[None]:
        """`check_integrity` in small steps: to be given up once `activity` has changed between two of them."""
        holders: dict[int, int] = {}
        for lease in self._leases:
            for node in lease.nodes:
                holders[node.id] = holders.get(node.id, 0) + 1
        yield from self.hierarchy.audit(holders)
        reserved = sum(lease.reserved for lease in self._leases)
        balance = self.balance()
        if reserved != self._device.reserved:
            raise IntegrityError(f"leases reserve {reserved} bytes, the books say {self._device.reserved}: {balance}")

    def restore(self) -> int:
        """Takes in what an earlier process left on disk, parents before children; returns how many nodes that were.

        What does not fit, or hangs on nothing that is here, is removed from the disk.
        """
        count, last_use = self.hierarchy.restore()
        self._uses = max(self._uses, last_use)
        return count

    def close(self) -> None:
        """Finishes what moves, and writes down what the policies learned. Leases are the caller's to release first."""
        self.hierarchy.close()
        if self.hierarchy.disk is not None:
            learned = {}
            for node in self.tree.nodes():
                place = node.places[DISK]
                if place is not None and place.copy is not None:
                    learned[place.copy] = node.frequency, node.last_use, node.misses, node.seconds_per_token
            self.hierarchy.records.close(learned)

    def commit(self, lease: Lease, kv: Sequence[Any]) -> None:
        """For Lease.commit."""
        if not kv:
            return
        # PGDSF (3), learned by whatever this request missed: T(alpha, beta) / beta
        price = self._cost(lease.cached_tokens, lease.missed_tokens) / lease.missed_tokens
        parent = lease.nodes[-1] if lease.nodes else lease.root
        for segment, memory in zip(lease.missing, kv, strict=False):  # of a prompt half computed, the first ones
            node = parent.children.get(segment.key)
            if node is None:
                node = self.tree.insert(parent, segment)
                self._enter(lease, node, memory, price)
            elif node.tokens != segment.tokens:  # a digest collision: this KV stays the request's own
                break
            else:
                place = node.places[DEVICE]
                if place is None:  # somebody else was faster, and it has left the device again
                    self._enter(lease, node, memory, price)
                    if self.hierarchy.host is not None:
                        self.hierarchy.host.mirrored(node)
                elif place.copy is None:  # on its way for somebody else: this KV stays the request's own
                    break
                else:
                    self._device.hold(node)
                    self._raise_use(node)
                    node.missed(price)
                    self._policy.used(node)
            lease.nodes.append(node)
            parent = node

    def end(self, lease: Lease) -> None:
        """For Lease.release."""
        self._leases.remove(lease)
        self._device.reserved -= lease.reserved
        lease.reserved = 0
        if self._lower:
            self.hierarchy.keep_upper(lease.nodes)
        for node in reversed(lease.nodes):
            self._device.release(node)
        if not self._keep:
            self.drop_unheld()
        elif self._contested:
            self._settle(lease)
        if self._write_behind is not None:
            self._write_behind.add(lease.nodes)

    def _enter(self, lease: Lease, node: Node, memory: Any, price: float) -> None:
        """KV that the request computed becomes the device's."""
        size = node.size * self.bytes_per_token
        lease.reserved -= size
        self._device.reserved -= size
        self._raise_use(node)
        node.missed(price)
        self._device.enter(node, memory)
        lease.newcomers += 1

    def _raise_use(self, node: Node) -> None:
        """Asked for once more; the tiers below that have it learn so, the device is the caller's to tell."""
        self._uses += 1
        node.frequency += 1
        node.last_use = self._uses
        for tier in self._lower:
            if node.places[tier.index] is not None:
                tier.policy.used(node)

    def _tell_misses(self, last: Node, below: Sequence[Node], missing: Sequence[Segment]) -> None:
        """Each tier's policy learns what it lacks of what is asked for, but for what a faster tier has."""
        for node in below:
            self._policy.missed(node.path_key, node.size)
            if self.hierarchy.host is not None and node.places[HOST] is None:
                self.hierarchy.host.policy.missed(node.path_key, node.size)
        key = last.path_key
        for segment in missing:
            key = path_key(key, segment.key)
            self._policy.missed(key, len(segment.tokens))
            for tier in self._lower:
                tier.policy.missed(key, len(segment.tokens))

    def _sources(self, there: int, on_device: int, below: Sequence[Node]) -> tuple[Sources, Sources]:
        """How many nodes were found on each tier, and their tokens."""
        if not below:
            return (there, 0, 0), (on_device, 0, 0)
        on_host = [node.size for node in below if len(node.places) > HOST and node.places[HOST] is not None]
        rest = sum(node.size for node in below) - sum(on_host)
        return (there, len(on_host), len(below) - len(on_host)), (on_device, sum(on_host), rest)

    def _count(self, lease: Lease, sign: int) -> None:
        """Hits and misses of a lease by tier, or (with sign -1) what it turned out not to be."""
        missed, missed_tokens = len(lease.path), lease.cached_tokens + lease.missed_tokens
        for tier in self._tiers:
            hits, tokens = lease.cached_nodes[tier.index], lease.cached_by_tier[tier.index]
            missed -= hits
            missed_tokens -= tokens
            counts = tier.counts
            counts.hits += sign * hits
            counts.misses += sign * missed
            counts.hit_tokens += sign * tokens
            counts.missed_tokens += sign * missed_tokens

    def _make_room(self, needed: int, below: Sequence[Node]) -> None:
        device = self._device
        if device.free >= needed:
            return
        # what is to be loaded must not be what makes room for others on its tier
        held = [(tier, node) for node in below for tier in self._lower if node.places[tier.index] is not None]
        for tier, node in held:
            tier.hold(node)
        while device.free < needed:
            try:
                victim = device.victim()
            except LookupError as error:
                raise IntegrityError(f"nothing to evict although {device.cached} bytes are cached") from error
            self.hierarchy.evict(victim)
        for tier, node in held:
            tier.release(node)

    def _fetch(self, lease: Lease, below: Sequence[Node]) -> None:
        for node in below:
            self._raise_use(node)
            self.hierarchy.expect(node)  # held by the lease from now on
        for node in below:
            if lease.broken:
                return
            self.hierarchy.fetch(node)

    def _wait_for_moves(self, lease: Lease) -> None:
        """A lease is ready when what it reads has come, and what it fills is free."""
        arrivals: list[Arrival] = list(self.hierarchy.swapping_out) if lease.reserved else []
        for node in lease.nodes:
            place = node.places[DEVICE]
            if place is not None and place.arrival is not None:
                arrivals.append(place.arrival)
        for arrival in arrivals:
            lease.waiting += 1
            arrival.callbacks.append(lease.arrived)

    def _break_leases(self, node: Node) -> None:
        """The node cannot be loaded: whoever counted on it has to ask anew."""
        for lease in list(self._leases):
            if node in lease.nodes:
                if not lease.broken:
                    self._count(lease, -1)
                for lost in reversed(lease.cut(lease.nodes.index(node))):
                    self._device.release(lost)
                lease.tell()

    def _settle(self, lease: Lease) -> None:
        """Who stays, now that the request has ended: its newcomers, or what they would displace."""
        device = self._device
        newcomers = set(lease.nodes[len(lease.nodes) - lease.newcomers :]) if lease.newcomers else set()
        while (excess := device.cached + device.held_nodes - self._stay_limit) > 0:
            victims, loser = device.contest(excess, newcomers)
            if loser is not None:  # the others stay, and the clock with them
                device.counts.rejections += 1
                self.hierarchy.evict(loser, evicted=False)
            elif victims:
                for victim in victims:
                    self.hierarchy.evict(victim)
            else:  # the rest is held: its memory is that of running requests until they end
                return
