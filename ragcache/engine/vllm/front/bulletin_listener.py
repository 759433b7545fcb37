"""BulletinListener: takes the connector's bulletins out of vLLM's statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from ragcache.engine.vllm.wire.bulletin import BULLETIN, Bulletin


class BulletinListener(StatLoggerBase):
    """A logger of vLLM's statistics, of one engine core: hands each bulletin to `on_bulletin`, with the core's number.

    vLLM logs a step's statistics once it has ended, and before what was generated in it is delivered.
    """

    def __init__(self, vllm_config: Any, engine_index: int, on_bulletin: Callable[[int, Bulletin], None]) -> None:
        del vllm_config
        self._core = engine_index
        self._on_bulletin = on_bulletin

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        del iteration_stats, mm_cache_stats, engine_idx
        connector_stats = None if scheduler_stats is None else scheduler_stats.kv_connector_stats
        if connector_stats and BULLETIN in connector_stats:
            self._on_bulletin(self._core, Bulletin.from_wire(connector_stats[BULLETIN]))

    def log_engine_initialized(self) -> None:
        """Logs nothing."""
