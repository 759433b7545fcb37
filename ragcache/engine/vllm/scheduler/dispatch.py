"""Dispatch: gives the workers their orders, step by step, and tells who gave one how it ended.

To the knowledge cache's own classes the workers look like what they know: movers, a host store and a record store.
What they are told to do happens in a later step, or on another machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ragcache.cache.mover import Moved
from ragcache.engine.vllm.wire.orders import Copy, Drop, Learn, Order, Orders, Outcome, Remove, Reports, Write
from ragcache.errors import RagCacheError, RecordError
from ragcache.storage.interface import DeviceKV, HostKV
from ragcache.storage.lmdb_store import footprint_of
from ragcache.storage.record import Record, Stats, root_key

Work = Callable[[], Any]
Done = Callable[[Moved], None]


class Block(Protocol):
    """vLLM's KVCacheBlock, as far as it is looked at here. A hash names the tokens that a block's KV is of."""

    block_id: int
    ref_cnt: int
    block_hash: Any


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBlocks:
    """A node's KV in vLLM's pool: its blocks in order, and the hashes that they have until others take them."""

    blocks: Sequence[Block]
    hashes: Sequence[Any]

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> DeviceBlocks:
        return cls(blocks, [block.block_hash for block in blocks])

    @property
    def valid(self) -> bool:
        return all(block.block_hash == known for block, known in zip(self.blocks, self.hashes, strict=True))

    def checked(self) -> tuple[int, ...]:
        """Ids of the blocks; RecordError "missing" if they hold something else by now."""
        if not self.valid:
            raise RecordError("the blocks to copy are another request's by now", reason="missing")
        return tuple(block.block_id for block in self.blocks)


class RemoteCopy:
    """A host copy at the workers, which they drop with the last reference to this."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int, drop: Callable[[int], None]) -> None:
        self.number = number
        weakref.finalize(self, drop, number).atexit = False


class Dispatch:
    """Orders for the next step, and what is known of those given. `workers` carry out each order."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._numbers = 0
        self._orders: list[Order] = []
        self._dropped: list[int] = []
        self._queue: list[tuple[Work, Done]] = []
        self._done: dict[int, Callable[[Outcome], None]] = {}
        self._heard = Reports()
        self.era = 0

    @property
    def busy(self) -> bool:
        """Whether anything is to be ordered, or not reported yet."""
        return bool(self._queue or self._orders or self._done)

    def number(self) -> int:
        """A number for an order."""
        self._numbers += 1
        return self._numbers

    def give(self, order: Order, done: Mapping[int, Callable[[Outcome], None]]) -> None:
        """An order for the next step; `done` is told of each of its numbers once all workers have reported."""
        self._orders.append(order)
        self._done.update(done)

    def submit(self, work: Work, done: Done) -> None:
        """`work` gives orders, when the next step is put together; `done` is told once they have ended."""
        self._queue.append((work, done))

    def drop(self, copy: int) -> None:
        self._dropped.append(copy)

    def take(self) -> Orders:
        """The orders for the workers' next step."""
        while self._queue:
            work, done = self._queue.pop(0)
            before = len(self._orders)
            try:
                value = work()
            except Exception as error:  # a move that cannot be made is a failed move
                done(Moved(None, error.with_traceback(None), 0.0))
                continue
            given = [order.number for order in self._orders[before:] if isinstance(order, Copy | Write | Remove)]
            assert len(given) == 1, "a move is one order"
            self._done[given[0]] = _telling(done, value)
        dropped, self._dropped = self._dropped, []
        orders: list[Order] = [Drop(tuple(dropped))] if dropped else []
        orders += self._orders
        self._orders = []
        return Orders(self.era, orders)

    def hear(self, reports: Reports) -> None:
        """What workers report; outcomes are told in the order in which their orders were given."""
        self._heard.join(reports)
        for number in sorted(self._heard.outcomes):
            if self._heard.outcomes[number].workers >= self._workers:
                outcome = self._heard.outcomes.pop(number)
                done = self._done.pop(number, None)
                if done is not None:
                    done(outcome)


def _telling(done: Done, value: Any) -> Callable[[Outcome], None]:
    def tell(outcome: Outcome) -> None:
        error = None
        if outcome.reason is not None:
            error = RecordError("a worker could not move KV; its log says more", reason=outcome.reason)
        done(Moved(value, error, outcome.seconds))

    return tell


class StepMover:
    """A Mover whose work is orders to the workers."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self.pending = 0

    def submit(self, work: Work, done: Done) -> None:
        self.pending += 1

        def finish(moved: Moved) -> None:
            self.pending -= 1
            done(moved)

        self._dispatch.submit(work, finish)

    def close(self) -> None:
        """Nothing is waited for: without another step, no worker does anything."""


class RemoteHost:
    """A HostStore: copies at the workers. They go to the blocks of the request that reads them, by its Load order."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def put(self, kv: DeviceBlocks) -> RemoteCopy:
        number = self._dispatch.number()
        self._dispatch.give(Copy(number, kv.checked()), {})
        return RemoteCopy(number, self._dispatch.drop)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a worker has when it starts: bytes of a token's KV, and of its disk cache, if there is one, the fingerprint,
    the bytes that may be used, the bytes of a page, and the records, parents before children."""

    bytes_per_token: int
    fingerprint: bytes = b""
    usable: int = 0
    page_size: int = 0
    records: Sequence[Record] = ()


class RemoteRecords:
    """A RecordStore: the workers' disk caches, which have the same records, each with its share of the KV.

    Records go to the blocks of the request that reads them, by its Load order.
    """

    def __init__(self, dispatch: Dispatch, inventories: Sequence[Inventory]) -> None:
        """RagCacheError if the workers' caches cannot be one."""
        self._dispatch = dispatch
        first = inventories[0]
        if any(found.fingerprint != first.fingerprint for found in inventories):
            raise RagCacheError("the workers' disk caches have different fingerprints: not of one model and layout")
        self._fingerprint = first.fingerprint
        self._page_size = first.page_size
        self._bytes_per_token = max(found.bytes_per_token for found in inventories)
        common = set.intersection(*({record.key for record in found.records} for found in inventories))
        self._records = [record for record in first.records if record.key in common]

    def root_key(self, namespace: str) -> bytes:
        return root_key(self._fingerprint, namespace)

    def footprint(self, tokens: int) -> int:
        return footprint_of(tokens * self._bytes_per_token, tokens, self._page_size)

    def records(self) -> list[Record]:
        records, self._records = self._records, []
        return records

    def write(self, record: Record, kv: DeviceKV | HostKV) -> None:
        """Has each worker write its share. RecordError "missing" if the blocks to write hold other KV by now."""
        source = kv.content.checked() if isinstance(kv, DeviceKV) else kv.content.number
        self._dispatch.give(Write(self._dispatch.number(), record, source), {})

    def remove(self, keys: Sequence[bytes]) -> None:
        self._dispatch.give(Remove(self._dispatch.number(), tuple(keys)), {})

    def learn(self, learned: Mapping[bytes, Stats]) -> None:
        """Has what was learned of records written down; nobody waits for it."""
        number = self._dispatch.number()
        self._dispatch.give(Learn(number, learned), {number: lambda _: None})

    def close(self, learned: Mapping[bytes, Stats]) -> None:
        """Nothing is left to do: the workers close their own disks."""
