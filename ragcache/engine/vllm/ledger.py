"""Ledger: the service's knowledge cache where vLLM keeps the KV. It books memory for what runs, and keeps nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ragcache.cache import KnowledgeCache
from ragcache.engine.vllm.engine import VllmKV
from ragcache.lease import Lease
from ragcache.policy import LRU


class VllmLedger(KnowledgeCache):
    """Leases memory of vLLM's pool, so that no more runs than fits. Which KV is kept, the connector's cache decides.

    A lease finds nothing. When it ends, its `cached_by_tier` says what vLLM and the connector found. `clear` has those
    two give up what they keep.
    """

    def __init__(self, capacity_tokens: int, bytes_per_token: int, clear: Callable[[], None]) -> None:
        super().__init__(capacity_tokens * bytes_per_token, bytes_per_token, LRU())
        self._clear = clear
        self._memory: dict[int, Sequence[VllmKV]] = {}

    def describe(self) -> str:
        return f"vLLM's KV: {self.capacity / 2**30:.2f} GiB"

    def drop_unheld(self) -> tuple[int, int]:
        """Asks for it, and returns zeros: how much that is, is not known here."""
        self._clear()
        return 0, 0

    def commit(self, lease: Lease, kv: Sequence[Any]) -> None:
        """Takes nothing in; what is computed is vLLM's already."""
        self._memory[id(lease)] = kv

    def end(self, lease: Lease) -> None:
        kv = self._memory.pop(id(lease), ())
        sources = kv[0].sources if kv else None
        if sources is not None:
            found = sum(sources)
            counts = self.counts
            counts.hit_tokens += found
            counts.missed_tokens -= found
            lease.cached_by_tier = sources
            lease.missed_tokens -= min(found, lease.missed_tokens)
        super().end(lease)
