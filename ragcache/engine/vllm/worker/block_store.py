"""BlockStore: a worker's half of the outer cache. Carries out orders on KV in blocks, on the host and on disk.

Host copies belong to the store, by the number of the order that made them, until they are dropped. Whatever it gives
back was checked: a copy that does not match its digest, and a record that does not match its own, fill no block that
is read. Reports and results are taken by the engine's thread, which also gives the orders.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

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

IDLE_SECONDS = 0.01  # that a step without a forward may wait for work in the threads


@dataclass(frozen=True, slots=True)
class _Copy:
    """A host copy and what its bytes hash to."""

    host: HostBlocks
    digest: bytes


@dataclass(slots=True)
class Results:
    """What ended since it was last asked: reports by order, requests that waited, blocks that could not be filled."""

    reports: Reports = field(default_factory=Reports)
    arrived: set[str] = field(default_factory=set)
    bad_blocks: set[int] = field(default_factory=set)


class BlockStore:
    """Calls in a step: `before` the forward or after it (loads of this step come before), then `after`, then `take`."""

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
        """How many host copies there are."""
        return len(self._copies)

    def before(self, orders: Orders) -> None:
        """Drops what is to be dropped and starts loads; those that nobody waits for are in the engine's queue then."""
        for order in orders.orders:
            if isinstance(order, Drop):
                for number in order.copies:
                    self._copies.pop(number, None)
        for order in orders.orders:
            if isinstance(order, Load):
                if order.waits:
                    self._submit(self._reader, self._load_later, order, orders.era)
                else:
                    self._load(order, orders.era)

    def after(self, orders: Orders, *, idle: bool) -> None:
        """Copies and writes, of blocks as the forward left them. If `idle`, waits a moment for what is under way, so
        that who asks again and again does not spin."""
        self._paged.filled()
        for order in orders.orders:
            if isinstance(order, Copy):
                self._copy(order, orders.era)
            elif isinstance(order, Write):
                self._write(order, orders.era)
            elif isinstance(order, Remove):
                self._submit(self._writer, self._on_disk, order.number, _removal(order))
            elif isinstance(order, Learn):
                self._submit(self._writer, self._on_disk, order.number, _lesson(order))
        if idle:
            with self._ended:
                if self._pending and not self._results.reports.outcomes:
                    self._ended.wait(IDLE_SECONDS)

    def take(self) -> Results:
        """What ended since the last call."""
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
        """Fills blocks from host copies, for the step that follows."""
        begin = time.perf_counter()
        fillings: list[Filling] = []
        reason = None
        for _, piece in order.pieces:
            try:
                fillings.append(Filling(self._checked(piece), piece.first, piece.blocks))
            except Exception as error:  # whatever is wrong with a copy, it is not served
                reason = _told(error)
                break
        self._paged.fill(fillings)
        seconds = time.perf_counter() - begin
        for at, (number, piece) in enumerate(order.pieces):
            if at < len(fillings):
                self._report(number, None, seconds / len(fillings))
            else:
                self._fail(piece, era)
                self._report(number, reason if at == len(fillings) else NOT_TRIED, 0.0)

    def _load_later(self, order: Load, era: int) -> None:
        """Fills blocks from host copies and records, beside the engine: the request waits."""
        failed = False
        for number, piece in order.pieces:
            begin = time.perf_counter()
            reason = NOT_TRIED if failed else None
            if reason is None:
                try:
                    host = self._checked(piece) if isinstance(piece.source, int) else self._read(piece)
                    self._paged.fill_and_wait([Filling(host, piece.first, piece.blocks)])
                except Exception as error:  # as above
                    reason = _told(error)
                    failed = True
            if reason is not None:
                self._fail(piece, era)
            self._report(number, reason, time.perf_counter() - begin)
        with self._lock:
            self._results.arrived.add(order.request)

    def _checked(self, piece: Piece) -> HostBlocks:
        """The host copy of a piece, whose bytes are what they were."""
        assert isinstance(piece.source, int)
        copy = self._copies.get(piece.source)
        if copy is None:
            raise RecordError(f"there is no host copy {piece.source}", reason="missing")
        if xxhash.xxh3_128_digest(copy.host.buffer) != copy.digest:
            raise RecordError(f"host copy {piece.source} is damaged (wrong checksum)", reason="checksum")
        return copy.host

    def _read(self, piece: Piece) -> HostBlocks:
        """The record of a piece, checked."""
        assert isinstance(piece.source, bytes)
        assert self._disk is not None
        host = self._paged.empty(piece.tokens // self._block_tokens)
        self._disk.read_into(piece.source, host.buffer)
        return host

    def _fail(self, piece: Piece, era: int) -> None:
        with self._lock:
            self._results.bad_blocks.update(piece.blocks)
            self._failed_era = max(self._failed_era, era)

    # -- copies and records

    def _gathered(self, blocks: tuple[int, ...], era: int) -> tuple[HostBlocks, Callable[[], None]]:
        if era <= self._failed_era:
            raise RecordError("a load of this step failed, its blocks hold anything", reason=SPOILED)
        return self._paged.gather(blocks)

    def _copy(self, order: Copy, era: int) -> None:
        begin = time.perf_counter()
        try:
            host, wait = self._gathered(order.blocks, era)
        except Exception as error:
            self._report(order.number, _told(error), 0.0)
            return

        def finish() -> None:
            reason = None
            try:
                wait()
                self._copies[order.number] = _Copy(host, xxhash.xxh3_128_digest(host.buffer))
            except Exception as error:
                reason = _told(error)
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
            self._report(order.number, _told(error), 0.0)
            return

        def write(disk: DiskStore) -> None:
            wait()
            payload = host.buffer
            if digest and xxhash.xxh3_128_digest(payload) != digest:
                raise RecordError("the host copy to write is damaged (wrong checksum)", reason="checksum")
            disk.write(dataclasses.replace(order.record, size=payload.nbytes), payload)

        self._submit(self._writer, self._on_disk, order.number, write)

    def _on_disk(self, number: int, work: Callable[[DiskStore], None]) -> None:
        """In the writer's thread."""
        begin = time.perf_counter()
        reason = None
        try:
            assert self._disk is not None
            work(self._disk)
        except Exception as error:  # a disk may fail in any way; the engine goes on
            reason = _told(error)
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


def _removal(order: Remove) -> Callable[[DiskStore], None]:
    return lambda disk: disk.remove(order.keys)


def _lesson(order: Learn) -> Callable[[DiskStore], None]:
    return lambda disk: disk.update(order.learned)


def _told(error: Exception) -> str:
    reason = reason_of(error)
    log.warning("KV was not moved (%s): %s", reason, error)
    return "memory" if reason == "MemoryError" else reason
