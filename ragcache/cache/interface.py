"""Interface: the tiers below the device, as a cache is given them."""

from __future__ import annotations

from dataclasses import dataclass

from ragcache.policy import Policy
from ragcache.storage.interface import HostStore, RecordStore


@dataclass(frozen=True, slots=True)
class HostTier:
    """The host tier that a cache is given: bytes of host memory for KV, and what a token takes of them."""

    capacity: int
    bytes_per_token: int
    policy: Policy
    store: HostStore


@dataclass(frozen=True, slots=True)
class DiskTier:
    """The disk tier that a cache is given: bytes of disk for records."""

    capacity: int
    policy: Policy
    store: RecordStore
