"""RemoteStores: the workers' host copies and records, as the knowledge cache's tiers are given them.

Both only keep: KV goes back to the blocks of the request that reads it, by a Load order of that request.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence

from ragcache.engine.vllm.scheduler.device_blocks import DeviceBlocks
from ragcache.engine.vllm.scheduler.dispatch import Dispatch
from ragcache.engine.vllm.wire.inventory import Inventory
from ragcache.engine.vllm.wire.orders import Copy, Learn, Remove, Write
from ragcache.errors import RagCacheError
from ragcache.storage.interface import DeviceKV, HostKV, OtherRecords
from ragcache.storage.lmdb_file import footprint_of
from ragcache.storage.record import Record, Stats, root_key


class RemoteCopy:
    """A host copy at the workers, which drop it with the last reference to this."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int, drop: Callable[[int], None]) -> None:
        self.number = number
        weakref.finalize(self, drop, number).atexit = False


class RemoteHost:
    """A HostStore: each worker copies its share of the KV to its own host memory."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def put(self, kv: DeviceBlocks) -> RemoteCopy:
        number = self._dispatch.number()
        self._dispatch.give(Copy(number, kv.checked()), {})
        return RemoteCopy(number, self._dispatch.drop)


class RemoteRecords:
    """A RecordStore: the workers' disk caches, which have the same records, each with its share of the KV."""

    def __init__(self, dispatch: Dispatch, inventories: Sequence[Inventory]) -> None:
        """`inventories`: one of each worker. RagCacheError if they are of different models or layouts."""
        self._dispatch = dispatch
        first = inventories[0]
        if any(inventory.fingerprint != first.fingerprint for inventory in inventories):
            raise RagCacheError("the workers' disk caches have different fingerprints: not of one model and layout")
        self._fingerprint = first.fingerprint
        self._page_size = first.page_size
        self._bytes_per_token = max(inventory.bytes_per_token for inventory in inventories)
        common = set.intersection(*({record.key for record in inventory.records} for inventory in inventories))
        self._records = [record for record in first.records if record.key in common]
        self._others = functools.reduce(OtherRecords.plus, (inventory.others for inventory in inventories))

    def root_key(self, namespace: str) -> bytes:
        return root_key(self._fingerprint, namespace)

    def footprint(self, tokens: int) -> int:
        return footprint_of(tokens * self._bytes_per_token, tokens, self._page_size)

    def records(self) -> list[Record]:
        """Lists the records that all workers had when they started; a second time, none."""
        records, self._records = self._records, []
        return records

    def others(self) -> OtherRecords:
        """What the workers have of other settings, all together, by their latest reports."""
        return self._others.plus(self._dispatch.others_change)

    def write(self, record: Record, kv: DeviceKV | HostKV) -> None:
        """Has each worker write its share. RecordError "missing" if the blocks to write hold other KV by now."""
        source = kv.content.checked() if isinstance(kv, DeviceKV) else kv.content.number
        self._dispatch.give(Write(self._dispatch.number(), record, source), {})

    def remove(self, keys: Sequence[bytes]) -> None:
        self._dispatch.give(Remove(self._dispatch.number(), tuple(keys)), {})

    def learn(self, learned: Mapping[bytes, Stats]) -> None:
        """Has what was learned of records written down, by key. How that ends is not reported."""
        number = self._dispatch.number()
        self._dispatch.give(Learn(number, learned), {number: lambda _: None})

    def close(self, learned: Mapping[bytes, Stats]) -> None:
        """Nothing is left to do: the workers close their own disks."""
