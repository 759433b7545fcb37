"""PagedEngine: what vLLM does with a connector, in miniature: a pool of blocks, a prefix cache, one request at a time.

The KV of a token is a number made of the token and the KV before it, so that wrong KV shows, and spreads.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ragcache.cache.integrity import recount
from ragcache.cost import PolynomialCost
from ragcache.engine.vllm.scheduler.outer_cache import OuterCache
from ragcache.engine.vllm.wire.inventory import Inventory
from ragcache.engine.vllm.wire.passages import passages
from ragcache.engine.vllm.wire.settings import ConnectorSettings
from ragcache.engine.vllm.worker.block_store import BlockStore, Results
from ragcache.engine.vllm.worker.paged_kv import PagedKV
from ragcache.storage.lmdb_store import DiskStore

BLOCK = 4
LAYERS = 2


@dataclass(eq=False)
class FakeBlock:
    block_id: int
    ref_cnt: int = 0
    block_hash: Any = None


class FakePool:
    """vLLM's BlockPool: free blocks in the order in which they are taken."""

    def __init__(self, blocks: int) -> None:
        self.num_gpu_blocks = blocks
        self.blocks = [FakeBlock(number) for number in range(blocks)]
        self.free: OrderedDict[int, FakeBlock] = OrderedDict((b.block_id, b) for b in self.blocks)
        self.cached: dict[Any, FakeBlock] = {}
        self._watchers: dict[int, Callable[[FakeBlock], None]] = {}

    def take(self, count: int) -> list[FakeBlock]:
        taken = []
        for _ in range(count):
            block = self.free.popitem(last=False)[1]
            watcher = self._watchers.pop(block.block_id, None)
            if watcher is not None:
                watcher(block)
            self.evict_blocks({block.block_id})
            block.ref_cnt = 1
            taken.append(block)
        return taken

    def get_num_free_blocks(self) -> int:
        return len(self.free)

    def hash(self, block: FakeBlock, name: Any) -> None:
        block.block_hash = name
        self.cached.setdefault(name, block)

    def touch(self, blocks: Sequence[FakeBlock]) -> None:
        for block in blocks:
            if not block.ref_cnt:
                del self.free[block.block_id]
            block.ref_cnt += 1

    def release(self, blocks: Iterable[FakeBlock]) -> None:
        for block in blocks:
            block.ref_cnt -= 1
            if not block.ref_cnt:
                self.free[block.block_id] = block

    def unpin_blocks(self, blocks: Iterable[FakeBlock], on_reuse: Callable[[FakeBlock], None]) -> None:
        for block in blocks:
            self._watchers[block.block_id] = on_reuse
        self.release(blocks)

    def evict_blocks(self, block_ids: set[int]) -> None:
        for number in block_ids:
            block = self.blocks[number]
            if self.cached.get(block.block_hash) is block:
                del self.cached[block.block_hash]
            block.block_hash = None


@dataclass
class Served:
    """What became of one prompt: tokens found by tier, those computed, and whether a load failed."""

    sources: dict[str, int]
    computed: int
    failed: bool = False
    order: list[str] = field(default_factory=list)


class PagedEngine:
    """Serves prompts, and asserts before each forward that all KV it reads is right.

    Without `settles`, what is to be copied and written when a request ends waits for the next one's steps.
    """

    settles = True

    def __init__(self, blocks: int, folder: Path | None = None, **settings: Any) -> None:
        self.kv = {f"layer {n}": torch.zeros((blocks, BLOCK, 1), dtype=torch.int64) for n in range(LAYERS)}
        paged = PagedKV(self.kv)
        disk = None
        token = paged.block_bytes // BLOCK
        inventory = Inventory(token)
        if folder is not None:
            settings["disk_cache"] = f"{folder}:16MiB"
            disk = DiskStore.open(folder, 16 << 20, b"miniature")
            inventory = Inventory(token, b"miniature", disk.usable, disk.page_size, disk.records())
        self.pool = FakePool(blocks)
        self.store = BlockStore(paged, BLOCK, disk)
        self.cache = OuterCache(
            ConnectorSettings(**settings), self.pool, BLOCK, [inventory], PolynomialCost(50, 0.01), follows_device=True
        )
        self._names = 0
        self._table: list[int] = []  # of the request that runs

    def serve(
        self, prompt: Sequence[int], lengths: Sequence[int], namespace: str = "default", *, patient: bool = True
    ) -> Served:
        """One prompt from its arrival to its first token; if not `patient`, it is aborted when a load has failed."""
        self._names += 1
        ticket = self.cache.open(f"request {self._names}", passages(prompt, lengths, BLOCK, 8), namespace)
        limit = (len(prompt) - 1) // BLOCK * BLOCK
        hashes = [(namespace, tuple(prompt[: end + BLOCK])) for end in range(0, len(prompt) - BLOCK + 1, BLOCK)]
        hit: list[FakeBlock] = []
        for name in hashes[: limit // BLOCK]:
            if name not in self.pool.cached:
                break
            hit.append(self.pool.cached[name])
        local = len(hit) * BLOCK
        self.cache.make_room(len(prompt) - local)
        tokens, waits = self.cache.match(ticket, local, limit)
        assert tokens is not None, "no other request is there"
        assert tokens % BLOCK == 0
        assert local + tokens <= limit
        self.pool.touch(hit)
        blocks = hit + self.pool.take(-(-len(prompt) // BLOCK) - len(hit))
        self._table = [block.block_id for block in blocks]
        self.cache.begin(ticket, self._table, tokens)
        served = Served({}, len(prompt) - local - tokens)
        if waits:
            bad: set[int] = set()  # reported at any step until the request has arrived
            while not (results := self._step(lambda: None)).arrived:
                bad |= results.bad_blocks
            bad |= results.bad_blocks
            served.failed = bool(bad)
            good = next((index for index, block in enumerate(blocks) if block.block_id in bad), len(blocks))
            tokens = min(tokens, max(0, good * BLOCK - local))
        for block, name in zip(blocks, hashes, strict=False):
            if block.block_hash is None:
                self.pool.hash(block, name)
        start = local + tokens
        self.cache.computed(ticket, len(prompt), blocks)
        results = self._step(lambda: self._forward(prompt, blocks, start, namespace))
        if results.bad_blocks:  # what was read was wrong: all from there on is computed again
            served.failed = True
            if patient:
                first = next(index for index, block in enumerate(blocks) if block.block_id in results.bad_blocks)
                self._step(lambda: self._forward(prompt, blocks, first * BLOCK, namespace))
        if patient or not results.bad_blocks:
            self._check(prompt, blocks, len(prompt), namespace)
        self.cache.finish(ticket)
        self._table = []
        self.pool.release(reversed(blocks))
        while self.settles and self.cache.busy:
            self._step(lambda: None)
        for _ in recount(self.cache.hierarchy, {}):
            pass
        served.sources = ticket.sources
        return served

    def _step(self, forward: Callable[[], None]) -> Results:
        orders = self.cache.dispatch.take()
        self.store.before(orders)
        self._bad = set(self.store._results.bad_blocks)
        forward()
        self.store.after(orders, idle=True)
        results = self.store.take()
        self.cache.lost(results.bad_blocks, [self._table])
        self.cache.dispatch.hear(results.reports)
        return results

    def _forward(self, prompt: Sequence[int], blocks: Sequence[FakeBlock], start: int, namespace: str) -> None:
        if not any(block.block_id in self._bad for block in blocks):
            self._check(prompt, blocks, start, namespace)
        for position in range(start, len(prompt)):
            for layer in range(LAYERS):
                before = self._kv(blocks, position - 1, layer) if position else _start(namespace)
                self.kv[f"layer {layer}"][blocks[position // BLOCK].block_id, position % BLOCK] = _next(
                    before, prompt[position]
                )

    def _kv(self, blocks: Sequence[FakeBlock], position: int, layer: int) -> int:
        return int(self.kv[f"layer {layer}"][blocks[position // BLOCK].block_id, position % BLOCK, 0])

    def _check(self, prompt: Sequence[int], blocks: Sequence[FakeBlock], end: int, namespace: str) -> None:
        right = _start(namespace)
        for position in range(end):
            right = _next(right, prompt[position])
            for layer in range(LAYERS):
                assert self._kv(blocks, position, layer) == right, f"wrong KV of token {position}"

    def forget_device(self) -> None:
        self.pool.evict_blocks(set(range(self.pool.num_gpu_blocks)))

    def close(self) -> None:
        self.store.close()


def _start(namespace: str) -> int:
    return zlib.crc32(namespace.encode())


def _next(before: int, token: int) -> int:
    return zlib.crc32(f"{before} {token}".encode())
