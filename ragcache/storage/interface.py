"""Store: the bytes of a tier below the device. What the knowledge cache asks of it, whoever keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ragcache.storage.record import Record, Stats
from ragcache.tree.tree import Node


class HostStore(Protocol):
    """KV in host memory. Called by one mover; a call that fails raises and has changed nothing."""

    def put(self, kv: Any) -> Any:
        """A complete copy of device KV, in host memory."""

    def load(self, copy: Any) -> Any:
        """Device KV that equals what was put (up to the stored dtype)."""


class RecordStore(Protocol):
    """KV on disk, which outlives the process.

    `write` and `remove` are called by one mover, `read` and `land` by one each. A record that is not complete and right
    is not there: `read` raises, and what it raises has a `reason`.
    """

    def root_key(self, namespace: str) -> bytes:
        """What the keys of a namespace's first nodes start from: model, weights, dtype, layout and namespace."""

    def key(self, parent: bytes, tokens: Sequence[int]) -> bytes:
        """The key of a node's record: it spells the tokens of its whole path."""

    def footprint(self, tokens: int) -> int:
        """Bytes of disk that a node of so many tokens takes."""

    def records(self) -> list[Record]:
        """What is there, parents before children."""

    def write(self, key: bytes, parent: bytes, node: Node, kv: Any, source: int) -> None:
        """Stores the KV of a node, which lies on tier `source` (DEVICE or HOST)."""

    def read(self, key: bytes, tokens: int) -> Any:
        """Checked KV in host memory, on its way to the device."""

    def land(self, staged: Any) -> Any:
        """Device KV of what was read."""

    def remove(self, keys: Sequence[bytes]) -> None:
        """Takes out records; those that are not there are ignored."""

    def close(self, learned: Mapping[bytes, Stats]) -> None:
        """Writes down what was learned of the records, by key, and lets go of the disk."""
