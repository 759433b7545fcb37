"""VllmLedger: the service's cache where vLLM keeps the KV: accounts for memory of running requests, caches nothing."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol

from ragcache.cache.contract import CachedPaths, OnMoved
from ragcache.cache.lease import Lease
from ragcache.cache.moves import DIRECTIONS, MoveCounts
from ragcache.cache.report import CacheReport, TierReport
from ragcache.cache.tier import Balance, TierCounts
from ragcache.engine.vllm.front.path_mirror import PathMirror
from ragcache.engine.vllm.wire.bulletin import Bulletin
from ragcache.engine.vllm.wire.passages import passages
from ragcache.errors import IntegrityError, RecordError
from ragcache.reuse import prefix
from ragcache.tree.segment import Segment
from ragcache.tree.tree import Node


class Board(Protocol):
    """Where the connector's bulletins arrive: `VllmEngine` in service, a script in tests."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of KV of a token, all workers together."""

    @property
    def capacity_tokens(self) -> int:
        """Tokens that vLLM's pool of blocks has room for."""

    @property
    def block_tokens(self) -> int:
        """Tokens of a block. Requests share no block that they write."""

    def take_bulletins(self) -> list[tuple[int, Bulletin]]:
        """The bulletins since the last call, oldest first, each with the number of the engine core it is from."""

    def clear(self) -> None:
        """Asks all cores to give up what no request uses. A bulletin of each core says when it has."""


class VllmLedger:
    """A CacheContract that leases memory of vLLM's pool in whole blocks, so that no more requests run than fit.

    What stays cached is decided by the connector, in another process. Reports repeat its last bulletin, which is that
    of the last step that ended. A lease finds nothing at first: `cached_by_tier` is set when it is committed, to the
    prompt tokens that vLLM and the connector had, and `shared_tokens` to those of them that another request was
    computing: not known to be cached when the lease was given, but part of a prompt that was not computed yet.
    """

    keeps = True
    shares_in_flight = False  # vLLM looks up what is cached when it comes to a prompt, and not before

    def __init__(self, board: Board, lower_names: Sequence[str] = ()) -> None:
        """`lower_names`: the connector's tiers below the device, fastest first."""
        self.capacity = board.capacity_tokens * board.bytes_per_token
        self.activity = 0
        self.lower_names = tuple(lower_names)
        self._board = board
        self._leases: dict[Lease, int] = {}  # and how many tokens of each were known to be cached when it was given
        self._reserved = 0  # bytes, of all open leases
        self._refusals = 0
        self._mirror = PathMirror()
        self._reports: dict[int, CacheReport] = {}  # by engine core
        self._clears: dict[int, int] = {}  # how often each engine core has cleared its cache
        self._clearing: tuple[int, CacheReport] | None = None  # the clear waited for, and the report from before it
        self._on_moved: list[OnMoved] = []

    # -- memory of running requests

    @property
    def idle(self) -> bool:
        return not self._leases and not self.moving

    def bytes_of(self, tokens: int) -> int:
        return tokens * self._board.bytes_per_token

    def balance(self) -> Balance:
        return Balance(self.capacity, self.capacity - self._reserved, 0, self._reserved)

    def can_ever_lease(self, path: Sequence[Segment], extra_tokens: int) -> bool:
        return self._bytes_in_blocks(path, extra_tokens) <= self.capacity

    def lease(self, path: Sequence[Segment], extra_tokens: int, *, namespace: str = "default") -> Lease | None:
        self.activity += 1
        size = self._bytes_in_blocks(path, extra_tokens)
        if self._reserved + size > self.capacity:
            self._refusals += 1
            return None
        none = (0, 0, 0)
        lease = Lease(self, self._mirror.root(namespace), tuple(path), [], size, none, none, sum(map(len, path)))
        self._note_in_flight(lease)
        self._reserved += size
        return lease

    def commit(self, lease: Lease, kv: Sequence[Any]) -> None:
        """For Lease.commit: `kv` are VllmKV, which by now say where the prompt's KV came from. vLLM keeps it."""
        if kv and kv[0].sources is not None:
            lease.cached_by_tier = kv[0].sources
            lease.shared_tokens = max(0, min(lease.shared_tokens, lease.cached_tokens - self._leases[lease]))

    def end(self, lease: Lease) -> None:
        """Gives back the memory that a lease reserves; Lease.release calls it once."""
        del self._leases[lease]
        self._reserved -= lease.reserved
        lease.reserved = 0
        self.refresh()  # what is cached now decides whose turn is next

    def leaders(self, path: Sequence[Segment], *, namespace: str = "default") -> Collection[Lease]:
        """None: vLLM computes by itself what two prompts begin with."""
        del path, namespace
        return ()

    def is_awaited(self, lease: Lease) -> bool:
        """False: vLLM computes by itself what two prompts begin with."""
        del lease
        return False

    def audit(self) -> Iterator[None]:
        """The leases' memory, in one step. The connector recounts its own books, which `report` tells of."""
        reserved = sum(lease.reserved for lease in self._leases)
        if not reserved == self._reserved <= self.capacity:
            raise IntegrityError(f"leases reserve {reserved} of {self.capacity} bytes, the books say {self._reserved}")
        yield

    def check_integrity(self) -> None:
        for _ in self.audit():
            pass

    # -- what the connector says is cached

    @property
    def moving(self) -> int:
        return self.report().moving + (self._clearing is not None)

    @property
    def unwritten(self) -> int:
        return self.report().unwritten

    @property
    def cached_paths(self) -> CachedPaths:
        return self._mirror

    def cached_as(self, path: Sequence[Segment]) -> Sequence[Segment]:
        """In whole blocks, as the connector cuts it."""
        self.refresh()
        tokens = [token for segment in path for token in segment.tokens]
        return passages(tokens, [len(segment) for segment in path], self._board.block_tokens, len(tokens))

    def refresh(self) -> None:
        for core, bulletin in self._board.take_bulletins():
            self._mirror.apply(bulletin.paths)
            self._clears[core] = bulletin.clears
            if bulletin.cache is not None:
                self._reports[core] = bulletin.cache
            for direction, tier, reason in bulletin.moved:
                error = None if reason is None else RecordError("vLLM's log says more", reason=reason)
                for callback in self._on_moved:
                    callback(direction, tier, error)

    def report(self) -> CacheReport:
        """The report of all engine cores together, with the number of leases refused here in `refusals`."""
        self.refresh()
        if not self._reports:  # before the first step
            device = TierReport("device", 0, self.balance(), TierCounts(refusals=self._refusals))
            return CacheReport(tiers=[device], moves={direction: MoveCounts() for direction in DIRECTIONS})
        report = functools.reduce(CacheReport.joined, self._reports.values())
        device, *lower = report.tiers
        counts = dataclasses.replace(device.counts, refusals=self._refusals)
        return dataclasses.replace(report, tiers=[dataclasses.replace(device, counts=counts), *lower])

    def describe(self) -> str:
        return f"vLLM's KV: {self.capacity / 2**30:.2f} GiB"

    def drop_unheld(self) -> tuple[int, int]:
        """Asks the connector for it, unless it has been asked; returns what went once all engine cores are done."""
        self.activity += 1
        report = self.report()
        if self._clearing is None:
            self._clearing = 1 + max(self._clears.values(), default=0), report
            self._board.clear()
            return 0, 0
        wanted, before = self._clearing
        if not self._clears or min(self._clears.values()) < wanted:
            return 0, 0
        self._clearing = None
        return max(0, before.nodes - report.nodes), max(0, _cached_bytes(before) - _cached_bytes(report))

    def on_room(self, callback: Callable[[], None]) -> None:
        """Never called: no move holds memory that is leased here."""

    def on_moved(self, callback: OnMoved) -> None:
        self._on_moved.append(callback)

    def close(self) -> None:
        """Nothing is left to do: the connector closes its tiers with the engine."""

    def held(self, path: Sequence[Segment], *, namespace: str = "default") -> tuple[int, bool]:
        """What the connectors have, and what the prompts that vLLM is computing begin with."""
        root, blocks = self._mirror.root(namespace), self.cached_as(path)
        cached, in_flight = self._mirror.match(root, blocks), self._tokens_in_flight(root, path)
        complete = len(cached) == len(blocks) or in_flight == sum(map(len, path))
        return max(prefix.cached_tokens(cached), in_flight), complete

    def _note_in_flight(self, lease: Lease) -> None:
        """Opens a lease, with the tokens that it may share with prompts that are being computed."""
        known, common = 0, self._tokens_in_flight(lease.root, lease.path)
        if common:
            known = sum(path.size for path in self._mirror.match(lease.root, self.cached_as(lease.path)))
        lease.shared_tokens = max(0, common - known)
        self._leases[lease] = known

    def _tokens_in_flight(self, root: Node, path: Sequence[Segment]) -> int:
        """Tokens of the beginning of `path` that are in a prompt which is being computed."""
        common = 0
        for lease in self._leases:
            if lease.root is root and not lease.committed:
                pairs = zip(path, lease.path, strict=False)
                same = itertools.takewhile(lambda pair: pair[0].key == pair[1].key, pairs)
                common = max(common, sum(len(segment) for segment, _ in same))
        return common

    def _bytes_in_blocks(self, path: Sequence[Segment], extra_tokens: int) -> int:
        """Bytes of the blocks that a request fills, the last one whole."""
        blocks = -(-(sum(map(len, path)) + extra_tokens) // self._board.block_tokens)
        return self.bytes_of(blocks * self._board.block_tokens)


def _cached_bytes(report: CacheReport) -> int:
    """Bytes on all tiers that no request holds."""
    return sum(tier.balance.cached for tier in report.tiers)
