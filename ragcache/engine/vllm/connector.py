"""RagCacheConnector: the knowledge tree as vLLM's outer cache.

For `vllm serve --kv-transfer-config` and for the engine of `ragcache serve --engine vllm`. vLLM makes one in the
scheduler, which decides, and one in each worker, which moves KV.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import vllm
from torch import Tensor
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
)
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from ragcache.engine.vllm import interface
from ragcache.engine.vllm.scheduler.connector_stats import RagCacheStats
from ragcache.engine.vllm.scheduler.hooks import SchedulerHooks
from ragcache.engine.vllm.scheduler.outer_cache import OuterCache
from ragcache.engine.vllm.wire.identity import estimated_cost
from ragcache.engine.vllm.wire.inventory import Inventory
from ragcache.engine.vllm.wire.orders import Orders, Reports
from ragcache.engine.vllm.wire.settings import ConnectorSettings
from ragcache.engine.vllm.worker.hooks import WorkerHooks
from ragcache.errors import ConfigError

log = logging.getLogger("vllm.ragcache")  # below vLLM's, so that its own settings show it

interface.require(KVConnectorBase_V1, interface.CONNECTOR, vllm.__version__)
interface.require(BlockPool, interface.POOL, vllm.__version__)
POOL_LACKS = interface.lacking(BlockPool, interface.POOL_ORDER)
SOURCES = {"host": CacheHitSource.HOST, "disk": CacheHitSource.DISK}


@dataclass
class StepOrders(KVConnectorMetadata):
    """From the scheduler to the workers, with each step. `idle`: nothing is computed in it."""

    orders: Orders
    idle: bool


@dataclass
class StepReports(KVConnectorWorkerMetadata):
    """From the workers to the scheduler, after a step."""

    reports: Reports = field(default_factory=Reports)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        assert isinstance(other, StepReports)
        self.reports.join(other.reports)
        return self


@dataclass
class WorkerInventory(KVConnectorHandshakeMetadata):
    """From each worker to the scheduler, when it starts."""

    inventory: Inventory


class RagCacheConnector(KVConnectorBase_V1):
    """vLLM's calls, passed on to a SchedulerHooks or a WorkerHooks.

    See ConnectorSettings for `kv_connector_extra_config`, and `passages.SEGMENTS_PARAM` for `kv_transfer_params`.
    """

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._settings = ConnectorSettings.of(self._kv_transfer_config.kv_connector_extra_config)
        if self._kv_transfer_config.kv_load_failure_policy != "recompute":
            raise ConfigError(
                '--kv-transfer-config needs "kv_load_failure_policy": "recompute": a failed load is a miss'
            )
        groups = kv_cache_config.kv_cache_groups
        if len(groups) != 1:
            raise ConfigError(f"KV of {len(groups)} kinds of layers is not supported; start with one kind of attention")
        self._block = groups[0].kv_cache_spec.block_size
        self._pool: Any = None
        self._scheduler: SchedulerHooks | None = None  # once all workers have started
        self._worker: WorkerHooks | None = None  # once this worker's KV is registered, until it shuts down
        if role is KVConnectorRole.SCHEDULER and not interface.is_tested(vllm.__version__):
            log.warning(
                "vLLM %s is not among the releases that ragcache was tested with (%s)",
                vllm.__version__,
                ", ".join(interface.SUPPORTED),
            )

    @property
    def scheduler(self) -> SchedulerHooks:
        """The connector in the scheduler. Only there, and once all workers have started."""
        assert self._scheduler is not None, "vLLM has not handed over what the workers have"
        return self._scheduler

    @property
    def cache(self) -> OuterCache:
        """The scheduler's cache."""
        return self.scheduler.cache

    @property
    def worker(self) -> WorkerHooks:
        """The connector in a worker. Only there, and while its KV is registered."""
        assert self._worker is not None, "vLLM has registered no KV here"
        return self._worker

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """True with a tier below the device: a captured graph would not wait for layers to be loaded."""
        settings = ConnectorSettings.of(extra_config)
        return bool(settings.host_cache or settings.disk_cache)

    # -- in the scheduler

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        self._pool = gpu_block_pool

    def set_xfer_handshake_metadata_pp_aware(self, metadata: Mapping[Any, KVConnectorHandshakeMetadata]) -> None:
        """All workers have started: makes the cache from their inventories."""
        inventories = []
        for _, message in sorted(metadata.items()):
            assert isinstance(message, WorkerInventory)
            inventories.append(message.inventory)
        if self._settings.device_policy and POOL_LACKS:
            log.warning("vLLM %s lacks %s: its blocks are evicted by LRU", vllm.__version__, ", ".join(POOL_LACKS))
        self._scheduler = SchedulerHooks(
            self._settings,
            self._pool,
            self._block,
            inventories,
            estimated_cost(self._vllm_config, self._settings.profile),
            follows_device=self._settings.device_policy and self._pool.enable_caching and not POOL_LACKS,
        )

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self.scheduler.matched(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self.scheduler.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def get_external_cache_hit_sources(self, request: Any, num_external_tokens: int) -> dict[CacheHitSource, int]:
        loaded = self.scheduler.loaded_tokens(request) if num_external_tokens else {}
        return {SOURCES[tier]: tokens for tier, tokens in loaded.items()}

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        orders = self.scheduler.step(scheduler_output, self._blocks_of)
        return StepOrders(orders, idle=not scheduler_output.num_scheduled_tokens)

    def update_connector_output(self, connector_output: Any) -> None:
        message = connector_output.kv_connector_worker_meta
        reports = None if message is None else message.reports
        self.scheduler.step_ended(set(connector_output.invalid_block_ids or ()), reports, self._block_ids_of)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        del block_ids  # which vLLM frees: no move needs them any more
        return False, self.scheduler.finished(request)

    def has_pending_push_work(self) -> bool:
        """Orders are carried out, and reported, by steps alone; so are bulletins brought."""
        return self._scheduler is not None and self._scheduler.wants_steps

    def get_kv_connector_stats(self) -> Any:
        if self._scheduler is None:
            return None
        bulletin = self._scheduler.bulletin()
        return RagCacheStats.of(self._scheduler.cache, self._scheduler.malformed, bulletin)

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Any:
        return RagCacheStats(data=data or {})

    def reset_cache(self) -> bool | None:
        self.scheduler.clear()
        return True

    def _blocks_of(self, request_id: str) -> Sequence[Any]:
        assert self._kv_cache_manager is not None
        blocks: Sequence[Any] = self._kv_cache_manager.get_blocks(request_id).blocks[0]
        return blocks

    def _block_ids_of(self, request_id: str) -> Sequence[int]:
        assert self._kv_cache_manager is not None
        block_ids: Sequence[int] = self._kv_cache_manager.get_block_ids(request_id)[0]
        return block_ids

    # -- in a worker

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        self._worker = WorkerHooks(self._settings, self._vllm_config, self._block, kv_caches)

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        return WorkerInventory(self.worker.inventory)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        del forward_context, kwargs
        if self._worker is not None:
            self._worker.before(self._step().orders)

    def wait_for_layer_load(self, layer_name: str) -> None:
        if self._worker is not None:
            self._worker.wait_for_layer(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Does nothing: blocks are copied once they are whole, after the forward."""

    def wait_for_save(self) -> None:
        if self._worker is not None:
            step = self._step()
            self._worker.after(step.orders, idle=step.idle)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        del finished_req_ids
        arrived = set() if self._worker is None else self._worker.take_arrived()
        return None, arrived or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return set() if self._worker is None else self._worker.take_bad_blocks()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        reports = Reports() if self._worker is None else self._worker.take_reports()
        return StepReports(reports) if reports.outcomes else None

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _step(self) -> StepOrders:
        step = self._get_connector_metadata()
        assert isinstance(step, StepOrders)
        return step
