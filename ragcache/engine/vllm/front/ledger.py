"""Ledger: the service's knowledge cache where vLLM keeps the KV. It books memory for what runs, and keeps nothing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ragcache.cache.cache import KnowledgeCache
from ragcache.cache.contract import CachedPaths
from ragcache.cache.lease import Lease
from ragcache.cache.report import CacheReport
from ragcache.engine.vllm.front.path_mirror import PathMirror
from ragcache.engine.vllm.wire.bulletin import Bulletin
from ragcache.engine.vllm.wire.passages import passages
from ragcache.errors import RecordError
from ragcache.policy import LRU
from ragcache.tree.segment import Segment


class Board(Protocol):
    """Where bulletins are put up: the engine."""

    @property
    def bytes_per_token(self) -> int: ...

    @property
    def capacity_tokens(self) -> int: ...

    @property
    def block_tokens(self) -> int: ...

    def take_bulletins(self) -> list[tuple[int, Bulletin]]:
        """Those put up since the last call, with the number of the engine's core that they are from."""

    def clear(self) -> None:
        """Has the cores give up what no request is using, which a bulletin of each tells when it is done."""


class VllmLedger(KnowledgeCache):
    """Leases memory of vLLM's pool, in whole blocks, so that no more runs than fits. Which KV is kept, the connector's
    cache decides; what is told here of it is what its last bulletin said, which is that of the last step that ended.

    A lease finds nothing. Once its prompt is computed, `cached_by_tier` says what vLLM and the connector found.
    """

    def __init__(self, board: Board, lower_names: Sequence[str] = ()) -> None:
        """`lower_names`: the connector's tiers below the device."""
        super().__init__(board.capacity_tokens * board.bytes_per_token, board.bytes_per_token, LRU())
        self._board = board
        self._lower_names = list(lower_names)
        self._mirror = PathMirror()
        self._reports: dict[int, CacheReport] = {}  # by engine's core
        self._clears: dict[int, int] = {}
        self._clearing: tuple[int, CacheReport] | None = None  # how many clears are waited for, and what was there
        self._on_moved: list[Callable[[str, str, Exception | None], None]] = []
        self._memory: dict[int, Sequence[Any]] = {}

    @property
    def unwritten(self) -> int:
        return self.report().unwritten

    @property
    def moving(self) -> int:
        return self.report().moving + (self._clearing is not None)

    @property
    def lower_names(self) -> list[str]:
        return self._lower_names

    @property
    def cached_paths(self) -> CachedPaths:
        return self._mirror

    def cached_as(self, path: Sequence[Segment]) -> Sequence[Segment]:
        """In whole blocks, as the connector cuts it."""
        self.refresh()
        tokens = [token for segment in path for token in segment.tokens]
        return passages(tokens, [len(segment) for segment in path], self._board.block_tokens, len(tokens))

    def on_moved(self, callback: Callable[[str, str, Exception | None], None]) -> None:
        self._on_moved.append(callback)

    def describe(self) -> str:
        return f"vLLM's KV: {self.capacity / 2**30:.2f} GiB"

    def refresh(self) -> None:
        for core, bulletin in self._board.take_bulletins():
            self._mirror.apply(bulletin.paths)
            self._clears[core] = bulletin.clears
            if bulletin.cache is not None:
                self._reports[core] = bulletin.cache
            for what, tier, reason in bulletin.moved:
                error = None if reason is None else RecordError("vLLM's log says more", reason=reason)
                for callback in self._on_moved:
                    callback(what, tier, error)

    def report(self) -> CacheReport:
        """Of all cores together, as last told. `refusals` are those of leases here."""
        self.refresh()
        if not self._reports:  # before the first step
            return CacheReport.of(self.hierarchy, 0)
        report = functools.reduce(CacheReport.joined, self._reports.values())
        device, *lower = report.tiers
        counts = dataclasses.replace(device.counts, refusals=self.counts.refusals)
        return dataclasses.replace(report, tiers=[dataclasses.replace(device, counts=counts), *lower])

    def drop_unheld(self) -> tuple[int, int]:
        """Asks for it, or, once all cores have told that they have: how many nodes and bytes are gone since. `moving`
        until then."""
        report = self.report()
        if self._clearing is None:
            self._clearing = 1 + max(self._clears.values(), default=0), report
            self._board.clear()
            return 0, 0
        wanted, before = self._clearing
        if not self._clears or min(self._clears.values()) < wanted:
            return 0, 0
        self._clearing = None
        return max(0, before.nodes - report.nodes), max(0, _kept(before) - _kept(report))

    def can_ever_lease(self, path: Sequence[Segment], extra_tokens: int) -> bool:
        return super().can_ever_lease(path, self._in_blocks(path, extra_tokens))

    def lease(self, path: Sequence[Segment], extra_tokens: int, *, namespace: str = "default") -> Lease | None:
        return super().lease(path, self._in_blocks(path, extra_tokens), namespace=namespace)

    def commit(self, lease: Lease, kv: Sequence[Any]) -> None:
        """Takes nothing in; what is computed is vLLM's already. Where the rest came from is known by now."""
        self._memory[id(lease)] = kv
        self._found(lease)

    def end(self, lease: Lease) -> None:
        self._found(lease)
        self._memory.pop(id(lease), None)
        super().end(lease)
        self.refresh()  # whose turn is next may depend on it

    def _in_blocks(self, path: Sequence[Segment], extra_tokens: int) -> int:
        """`extra_tokens` and what the last block has room for behind them."""
        return extra_tokens + -(sum(map(len, path)) + extra_tokens) % self._board.block_tokens

    def _found(self, lease: Lease) -> None:
        kv = self._memory.get(id(lease))
        if kv and kv[0].sources is not None:
            lease.cached_by_tier = kv[0].sources


def _kept(report: CacheReport) -> int:
    """Bytes of nodes on all tiers that nobody holds."""
    return sum(tier.balance.cached for tier in report.tiers)
