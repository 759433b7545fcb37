"""The stores behind the host and the disk tier: a KVTransfer's work, in host memory and in records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ragcache.storage.interface import DeviceKV, HostKV, OtherRecords
from ragcache.storage.lmdb_store import DiskStore
from ragcache.storage.record import Record, Stats, root_key


class HostBytes(Protocol):
    """KV in host memory, whose bytes can be read and written."""

    @property
    def buffer(self) -> memoryview:
        """The bytes themselves, contiguous and writable."""


class Transfer(Protocol):
    """Moves KV between device, host memory and plain bytes: see ragcache.engine.torch.transfer."""

    @property
    def stored_bytes_per_token(self) -> int:
        """Bytes that a token's KV takes in host memory and on disk."""

    def to_host(self, span: Any) -> Any:
        """A copy of device KV in host memory of its own."""

    def to_device(self, host: Any) -> Any:
        """A copy of host KV in device memory of its own."""

    def empty_host(self, tokens: int) -> Any:
        """Host memory for the KV of this number of tokens, to be filled through its `buffer` (see HostBytes)."""

    def adopt(self, host: Any) -> Any:
        """Device KV of `host`, whose memory it may take over: `host` is not to be used again."""

    def payload(self, span: Any) -> memoryview:
        """The bytes to store of device KV, flat."""

    def payload_of_host(self, host: Any) -> memoryview:
        """The bytes to store of host KV, flat: those of `host` itself."""


class HostMemory:
    """A LoadingHostStore: copies of the device's KV in this process' memory, made by a `transfer`."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    def put(self, kv: Any) -> Any:
        return self._transfer.to_host(kv)

    def load(self, copy: Any) -> Any:
        return self._transfer.to_device(copy)


class DiskRecords:
    """A LoadingRecordStore over a DiskStore. `fingerprint` names the model, its weights, the dtype and the layout."""

    def __init__(self, disk: DiskStore, transfer: Transfer, fingerprint: bytes) -> None:
        self._disk = disk
        self._transfer = transfer
        self._fingerprint = fingerprint

    def root_key(self, namespace: str) -> bytes:
        return root_key(self._fingerprint, namespace)

    def footprint(self, tokens: int) -> int:
        return self._disk.footprint(tokens * self._transfer.stored_bytes_per_token, tokens)

    def records(self) -> list[Record]:
        return self._disk.records()

    def others(self) -> OtherRecords:
        return self._disk.others

    def write(self, record: Record, kv: DeviceKV | HostKV) -> None:
        bytes_of = self._transfer.payload if isinstance(kv, DeviceKV) else self._transfer.payload_of_host
        payload = bytes_of(kv.content)
        self._disk.write(dataclasses.replace(record, size=payload.nbytes), payload)

    def read(self, key: bytes, tokens: int) -> Any:
        host = self._transfer.empty_host(tokens)
        self._disk.read_into(key, host.buffer)
        return host

    def land(self, read_kv: Any) -> Any:
        return self._transfer.adopt(read_kv)

    def remove(self, keys: Sequence[bytes]) -> None:
        self._disk.remove(keys)

    def close(self, learned: Mapping[bytes, Stats]) -> None:
        try:
            self._disk.update(learned)
        finally:
            self._disk.close()
