"""BlockStore: carries out a worker's orders on KV in blocks, on the host and on disk.

Host copies belong to the store, by the number of the order that made them, until they are dropped. All KV that goes
back to blocks is checked: a copy or a record that does not match its digest fills no block that is read. The engine's
thread gives the orders and takes the results.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
import xxhash

from ragcache.engine.vllm.wire.orders import (
    NOT_TRIED,
    SPOILED,
    Copy,
    Drop,
    Learn,
    Load,
    Orders,
    Outcome,
    Piece,
    Remove,
    Reports,
    Write,
)
from ragcache.engine.vllm.worker.paged_kv import Filling, HostBlocks, PagedKV
from ragcache.errors import RecordError, reason_of
from ragcache.storage.lmdb_store import DiskStore

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.01  # most that a step without a forward waits for work in the threads


@dataclass(frozen=True, slots=True)
class _Copy:
    """A host copy, and the digest of its bytes."""

    host: HostBlocks
    digest: bytes


@dataclass(slots=True)
class Results:
    """What has ended since results were last taken.

    `arrived` are the ids of requests that waited for a load, `bad_blocks` those that could not be filled.
    """

    reports: Reports = field(default_factory=Reports)
    arrived: set[str] = field(default_factory=set)
    bad_blocks: set[int] = field(default_factory=set)


class BlockStore:
    """For each step call `before` (before the forward), `after` (once it is queued), then `take`."""

    def __init__(self, paged: PagedKV, block_tokens: int, disk: DiskStore | None) -> None:
        self._paged = paged
        self._block_tokens = block_tokens
        self._disk = disk
        self._copies: dict[int, _Copy] = {}
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._results = Results()
        self._pending = 0  # pieces of work in the threads
        self._failed_era = -1
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="kv-reads")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="kv-writes")

    @property
    def copies(self) -> int:
        """Number of host copies."""
        return len(self._copies)

    def before(self, orders: Orders) -> None:
        """Drops host copies and starts loads. Loads that no request waits for are in the engine's queue on return."""
        for order in orders.orders:
            if isinstance(order, Drop):
                for number in order.copies:
                    self._copies.pop(number, None)
        for order in orders.orders:
            if isinstance(order, Load):
                if order.waits:
                    self._submit(self._reader, self._load_later, order, orders.era, self._paged.queued())
                else:
                    self._load(order, orders.era)

    def after(self, orders: Orders, *, idle: bool) -> None:
        """Starts copies, of blocks as the forward left them, and work on the disk.

        If `idle`, waits a moment for work that is under way, so that an engine which steps for it alone does not spin.
        """
        self._paged.filled()
        for order in orders.orders:
            if isinstance(order, Copy):
                self._copy(order, orders.era)
            elif isinstance(order, Write):
                self._write(order, orders.era)
            elif isinstance(order, Remove):
                self._submit(self._writer, self._on_disk, order.number, _removing(order))
            elif isinstance(order, Learn):
                self._submit(self._writer, self._on_disk, order.number, _learning(order))
        if idle:
            with self._ended:
                if self._pending and not self._results.reports.outcomes:
                    self._ended.wait(IDLE_SECONDS)

    def take(self) -> Results:
        """Hands over what has ended since the last call: reports, requests whose load ended, blocks not filled."""
        with self._lock:
            results, self._results = self._results, Results()
        return results

    def close(self) -> None:
        """Finishes the work under way and lets go of the disk."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._writer.shutdown(wait=True, cancel_futures=True)
        if self._disk is not None:
            self._disk.close()
        self._copies.clear()

    # -- loads

    def _load(self, order: Load, era: int) -> None:
        """Fills blocks from host copies, before this step's forward."""
        begin = time.perf_counter()
        fillings: list[Filling] = []
        reason = None
        for _, piece in order.pieces:
            try:
                fillings.append(Filling(self._checked(piece), piece.first, piece.blocks))
            except Exception as error:  # whatever is wrong with a copy, it is not served
                reason = _reason(error)
                break
        self._paged.fill(fillings)
        seconds = time.perf_counter() - begin
        for place, (number, piece) in enumerate(order.pieces):
            if place < len(fillings):
                self._report(number, None, seconds / len(fillings))
            else:
                self._fail(piece, era)
                self._report(number, reason if place == len(fillings) else NOT_TRIED, 0.0)

    def _load_later(self, order: Load, era: int, queued: torch.cuda.Event | None) -> None:
        """Fills blocks from host copies and records, beside the engine: the request waits.

        Not before what is `queued`: a step that is under way may use blocks that were freed since.
        """
        failed = False
        for number, piece in order.pieces:
            begin = time.perf_counter()
            reason = NOT_TRIED if failed else None
            if reason is None:
                try:
                    host = self._checked(piece) if isinstance(piece.source, int) else self._read(piece)
                    self._paged.fill_and_wait([Filling(host, piece.first, piece.blocks)], queued)
                except Exception as error:  # as above
                    reason = _reason(error)
                    failed = True
            if reason is not None:
                self._fail(piece, era)
            self._report(number, reason, time.perf_counter() - begin)
        with self._lock:
            self._results.arrived.add(order.request)

    def _checked(self, piece: Piece) -> HostBlocks:
        """The host copy of a piece; RecordError if it is missing or damaged."""
        assert isinstance(piece.source, int)
        copy = self._copies.get(piece.source)
        if copy is None:
            raise RecordError(f"there is no host copy {piece.source}", reason="missing")
        if xxhash.xxh3_128_digest(copy.host.buffer) != copy.digest:
            raise RecordError(f"host copy {piece.source} is damaged (wrong checksum)", reason="checksum")
        return copy.host

    def _read(self, piece: Piece) -> HostBlocks:
        """The record of a piece, in host memory; RecordError if it is missing or damaged."""
        assert isinstance(piece.source, bytes)
        assert self._disk is not None
        host = self._paged.empty(piece.tokens // self._block_tokens)
        self._disk.read_into(piece.source, host.buffer)
        return host

    def _fail(self, piece: Piece, era: int) -> None:
        """The blocks of a piece hold anything from now on."""
        with self._lock:
            self._results.bad_blocks.update(piece.blocks)
            self._failed_era = max(self._failed_era, era)

    # -- copies and records

    def _gathered(self, blocks: tuple[int, ...], era: int) -> tuple[HostBlocks, Callable[[], None]]:
        """A copy of blocks, and a function that waits for it; RecordError if a failed load may have spoiled them."""
        if era <= self._failed_era:
            raise RecordError("a load of this step failed, its blocks may hold anything", reason=SPOILED)
        return self._paged.gather(blocks)

    def _copy(self, order: Copy, era: int) -> None:
        begin = time.perf_counter()
        try:
            host, wait = self._gathered(order.blocks, era)
        except Exception as error:
            self._report(order.number, _reason(error), 0.0)
            return

        def finish() -> None:
            reason = None
            try:
                wait()
                self._copies[order.number] = _Copy(host, xxhash.xxh3_128_digest(host.buffer))
            except Exception as error:
                reason = _reason(error)
            self._report(order.number, reason, time.perf_counter() - begin)

        if self._paged.on_cuda:
            self._submit(self._reader, finish)
        else:
            finish()

    def _write(self, order: Write, era: int) -> None:
        wait: Callable[[], None]
        try:
            if isinstance(order.source, int):
                copy = self._copies[order.source]
                host, digest, wait = copy.host, copy.digest, _nothing
            else:
                host, wait = self._gathered(order.source, era)
                digest = b""
        except Exception as error:
            self._report(order.number, _reason(error), 0.0)
            return

        def write(disk: DiskStore) -> None:
            wait()
            payload = host.buffer
            if digest and xxhash.xxh3_128_digest(payload) != digest:
                raise RecordError("the host copy to write is damaged (wrong checksum)", reason="checksum")
            disk.write(dataclasses.replace(order.record, size=payload.nbytes), payload)

        self._submit(self._writer, self._on_disk, order.number, write)

    def _on_disk(self, number: int, work: Callable[[DiskStore], None]) -> None:
        """Does work on the disk and reports how it ended. Runs in the writer's thread."""
        begin = time.perf_counter()
        reason = None
        assert self._disk is not None
        others = self._disk.others
        try:
            work(self._disk)
        except Exception as error:  # a disk may fail in any way; the engine goes on
            reason = _reason(error)
        change = self._disk.others.minus(others)
        with self._lock:
            reports = self._results.reports
            reports.others_change = reports.others_change.plus(change)
        self._report(number, reason, time.perf_counter() - begin)

    # -- reports

    def _report(self, number: int, reason: str | None, seconds: float) -> None:
        with self._lock:
            self._results.reports.outcomes[number] = Outcome(reason, seconds)

    def _submit(self, pool: ThreadPoolExecutor, work: Callable[..., None], *arguments: object) -> None:
        def run() -> None:
            try:
                work(*arguments)
            finally:
                with self._ended:
                    self._pending -= 1
                    self._ended.notify_all()

        with self._lock:
            self._pending += 1
        pool.submit(run)


def _nothing() -> None:
    pass


def _removing(order: Remove) -> Callable[[DiskStore], None]:
    return lambda disk: disk.remove(order.keys)


def _learning(order: Learn) -> Callable[[DiskStore], None]:
    return lambda disk: disk.update(order.learned)


def _reason(error: Exception) -> str:
    """A short word for a failure, which is logged."""
    reason = reason_of(error)
    log.warning("KV was not moved (%s): %s", reason, error)
    return "memory" if reason == "MemoryError" else reason
