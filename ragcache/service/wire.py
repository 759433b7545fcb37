"""Wire: a RagService put together from its settings and loaded parts, in one way for every engine."""

from __future__ import annotations

from dataclasses import dataclass

from ragcache.cache.cache import KnowledgeCache
from ragcache.cache.contract import CacheContract
from ragcache.cache.interface import DiskTier, HostTier
from ragcache.cache.mover import Mover
from ragcache.cost import PrefillCost
from ragcache.engine.protocol import Engine
from ragcache.errors import ConfigError
from ragcache.service.finder import Finder
from ragcache.service.service import RagService
from ragcache.service.settings import ServiceSettings
from ragcache.storage.interface import LoadingHostStore, LoadingRecordStore


@dataclass(frozen=True, slots=True, kw_only=True)
class KvParts:
    """Where a KnowledgeCache of this process keeps KV, what moves it, and what a prefill costs.

    `bytes_per_token` is a token's KV on the device, `stored_bytes_per_token` on the tiers below (0: as much).
    `request_tokens` is what an ordinary request computes at most: room for it stays free of idle KV where newcomers
    compete. `disk` has room for `disk_capacity` bytes. `copies` moves KV between device and host, `writes` to disk and
    `reads` from there; where one is None, moves are done at once in the caller's thread.
    """

    bytes_per_token: int
    cost: PrefillCost | None = None
    request_tokens: int = 0
    stored_bytes_per_token: int = 0
    host: LoadingHostStore | None = None
    disk: LoadingRecordStore | None = None
    disk_capacity: int = 0
    copies: Mover | None = None
    writes: Mover | None = None
    reads: Mover | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a service is made of, loaded already.

    `kv` is where this process keeps KV, or the cache that stands for an engine which keeps it itself.
    """

    finder: Finder
    engine: Engine
    kv: KvParts | CacheContract
    model_name: str = "model"


def wire(settings: ServiceSettings, parts: Parts) -> RagService:
    """A service over these parts. It owns them from now on: closing it closes them.

    Restores what an earlier process left on disk. Raises ConfigError if the device cache has no room for a token;
    the parts are the caller's to close then.
    """
    cache = _knowledge_cache(settings, parts.kv, parts.model_name) if isinstance(parts.kv, KvParts) else parts.kv
    return RagService(parts.finder, cache, parts.engine, settings.limits, model_name=parts.model_name)


def _knowledge_cache(settings: ServiceSettings, kv: KvParts, model_name: str) -> KnowledgeCache:
    capacity, token, make = settings.device_cache, kv.bytes_per_token, settings.policy
    if capacity < token:
        raise ConfigError(f"device_cache is {capacity} bytes; one token of {model_name} takes {token}")
    stored = kv.stored_bytes_per_token or token
    host = disk = None
    if settings.host_cache and kv.host is not None:
        host = HostTier(settings.host_cache, stored, make(settings.host_cache // stored), kv.host)
    if kv.disk is not None:
        disk = DiskTier(kv.disk_capacity, make(kv.disk_capacity // stored), kv.disk)
    # not more than half: the rest of the cache must be good for something
    working = min(kv.request_tokens * token, capacity // 2) if settings.admission == "competes" else 0
    cache = KnowledgeCache(
        capacity,
        token,
        make(capacity // token),
        keep=settings.keeps,
        share_in_flight=settings.share_in_flight and settings.keeps,
        cost=kv.cost,
        admission=settings.admission,
        working=working,
        host=host,
        disk=disk,
        copies=kv.copies,
        writes=kv.writes,
        reads=kv.reads,
    )
    if disk is not None:
        cache.restore()
    return cache
