"""Inventory: what a worker has when it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ragcache.storage.interface import OtherRecords
from ragcache.storage.record import Record


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a worker tells the scheduler once. All but `bytes_per_token` describe its disk cache, if it has one.

    `bytes_per_token` is its share of a token's KV, `fingerprint` says whose KV the records are, `usable` is the bytes
    that they may take, `page_size` the bytes of a page. `records` lists parents before children. `others` is what other
    settings have left in its disk cache.
    """

    bytes_per_token: int
    fingerprint: bytes = b""
    usable: int = 0
    page_size: int = 0
    records: Sequence[Record] = ()
    others: OtherRecords = OtherRecords()
