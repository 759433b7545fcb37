"""RagCacheStats: the knowledge cache's totals, as vLLM logs them and hands them to its metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats

from ragcache.engine.vllm.scheduler.outer_cache import OuterCache
from ragcache.engine.vllm.wire.bulletin import BULLETIN, Bulletin


@dataclass
class RagCacheStats(KVConnectorStats):
    """Totals since the start, by name; a bulletin travels with them. Later totals replace earlier ones."""

    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, cache: OuterCache, malformed: int, bulletin: Bulletin | None = None) -> RagCacheStats:
        """The totals of a cache, and of requests whose segments were `malformed`."""
        data: dict[str, Any] = {}
        for name, counts in cache.counts().items():
            data[f"{name}_hit_tokens"] = counts.hit_tokens
            data[f"{name}_evictions"] = counts.evictions
            data[f"{name}_failures"] = counts.failures.total()
        data["malformed_requests"] = malformed
        if bulletin is not None:
            data[BULLETIN] = bulletin.to_wire()
        return cls(data=data)

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        self.data |= other.data
        return self

    def reduce(self) -> dict[str, Any]:
        return {name: value for name, value in self.data.items() if name != BULLETIN}

    def is_empty(self) -> bool:
        return not any(self.data.values())
