"""Interface: the tiers below the device, as a cache is given them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from ragcache.policy import Policy
from ragcache.storage.interface import HostStore, RecordStore

Host = TypeVar("Host", bound=HostStore, covariant=True)
Records = TypeVar("Records", bound=RecordStore, covariant=True)


@dataclass(frozen=True, slots=True)
class HostTier(Generic[Host]):
    """The host tier of a cache: `capacity` bytes of host memory for KV, of which a token takes `bytes_per_token`.

    `policy` belongs to this tier alone.
    """

    capacity: int
    bytes_per_token: int
    policy: Policy
    store: Host


@dataclass(frozen=True, slots=True)
class DiskTier(Generic[Records]):
    """The disk tier of a cache: `capacity` bytes for records, as their `footprint` counts them.

    `policy` belongs to this tier alone.
    """

    capacity: int
    policy: Policy
    store: Records
