"""Interface: what the knowledge cache asks of the stores behind its host and disk tiers, wherever their bytes lie.

Each store has a protocol for keeping KV and another for bringing it back to the device. A store that requests read
from in a way of its own, as vLLM's do, implements only the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ragcache.storage.record import Record, Stats


@dataclass(frozen=True, slots=True)
class DeviceKV:
    """KV to be written that lies in device memory: `content` is what the engine computed for one segment."""

    content: Any


@dataclass(frozen=True, slots=True)
class HostKV:
    """KV to be written that lies in host memory: `content` is what `HostStore.put` returned for one segment."""

    content: Any


@dataclass(frozen=True, slots=True)
class OtherRecords:
    """Records of other settings beside a store's own: how many there are, the bytes that they take of the same
    capacity, and how many were `removed` since the start because their room was needed."""

    records: int = 0
    bytes: int = 0
    removed: int = 0

    def plus(self, other: OtherRecords) -> OtherRecords:
        """The sums of both."""
        return OtherRecords(self.records + other.records, self.bytes + other.bytes, self.removed + other.removed)

    def minus(self, other: OtherRecords) -> OtherRecords:
        """What has changed since `other`."""
        return OtherRecords(self.records - other.records, self.bytes - other.bytes, self.removed - other.removed)


class HostStore(Protocol):
    """Copies device KV to host memory. Called by one mover; a call that fails raises and has changed nothing."""

    def put(self, kv: Any) -> Any:
        """Returns a complete copy of device KV, in host memory. It is freed with the last reference to it."""


class HostReader(Protocol):
    """Copies KV from host memory back to the device. Called by the mover that puts it there."""

    def load(self, copy: Any) -> Any:
        """Returns device KV equal to what was put, up to the stored dtype."""


class RecordStore(Protocol):
    """Keeps KV as records that outlive the process. `write` and `remove` are called by one mover.

    A record is there once `write` has returned, complete, or not at all. What a method raises has a `reason`, a short
    word for statistics (see RecordError).
    """

    def root_key(self, namespace: str) -> bytes:
        """Key that a namespace's first records have as their parent. It names model, weights, dtype and layout, too."""

    def footprint(self, tokens: int) -> int:
        """Bytes of the store's capacity that a record of this number of tokens takes."""

    def records(self) -> list[Record]:
        """Lists what is there, parents before children."""

    def others(self) -> OtherRecords:
        """What other settings have left. It counts as free, for `write` takes its room where that is needed."""

    def write(self, record: Record, kv: DeviceKV | HostKV) -> None:
        """Stores a record and its KV. `record.size` is 0: the store knows how many bytes it writes."""

    def remove(self, keys: Sequence[bytes]) -> None:
        """Removes records; keys that are not there are ignored."""

    def close(self, learned: Mapping[bytes, Stats]) -> None:
        """Writes down what was learned of records, by key, and lets go of the store."""


class RecordReader(Protocol):
    """Reads records back to the device in two steps, each called by a mover of its own.

    A record that is not complete and right is not there: `read` raises.
    """

    def read(self, key: bytes, tokens: int) -> Any:
        """Returns the checked KV of a record of this number of tokens, in host memory, for `land`."""

    def land(self, read_kv: Any) -> Any:
        """Returns device KV of `read_kv`, which `read` returned."""


class LoadingHostStore(HostStore, HostReader, Protocol):
    """A host store whose copies the cache itself brings back to the device."""


class LoadingRecordStore(RecordStore, RecordReader, Protocol):
    """A record store whose records the cache itself brings back to the device."""
