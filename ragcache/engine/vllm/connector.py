"""RagCacheConnector: the knowledge tree as vLLM's outer cache.

For `vllm serve --kv-transfer-config` and for the engine of `ragcache serve --engine vllm`. vLLM makes one in the
scheduler, which decides, and one in each worker, which moves KV.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
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
from ragcache.engine.vllm.scheduler.outer_cache import OuterCache, Ticket
from ragcache.engine.vllm.scheduler.reporter import Reporter
from ragcache.engine.vllm.wire.bulletin import NAME_PARAM
from ragcache.engine.vllm.wire.identity import blocks_fingerprint, estimated_cost
from ragcache.engine.vllm.wire.inventory import Inventory
from ragcache.engine.vllm.wire.orders import Orders, Reports
from ragcache.engine.vllm.wire.passages import BadBoundaries, lengths_of, passages
from ragcache.engine.vllm.wire.settings import ConnectorSettings
from ragcache.engine.vllm.worker.block_store import BlockStore, Results
from ragcache.engine.vllm.worker.paged_kv import PagedKV
from ragcache.errors import ConfigError
from ragcache.storage.lmdb_store import DiskStore

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
    """See ConnectorSettings for `kv_connector_extra_config`, and `passages.SEGMENTS_PARAM` for `kv_transfer_params`."""

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
        # the scheduler's
        self._cache: OuterCache | None = None
        self._reporter: Reporter | None = None
        self._pool: Any = None
        self._malformed = 0
        # a worker's
        self._store: BlockStore | None = None
        self._paged: PagedKV | None = None
        self._inventory: Inventory | None = None
        self._results = Results()
        if role is KVConnectorRole.SCHEDULER and not interface.is_tested(vllm.__version__):
            log.warning(
                "vLLM %s is not among the releases that ragcache was tested with (%s)",
                vllm.__version__,
                ", ".join(interface.SUPPORTED),
            )

    @property
    def cache(self) -> OuterCache:
        """The scheduler's half, once vLLM has started."""
        assert self._cache is not None, "vLLM has not handed over what the workers have"
        return self._cache

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """A captured graph would not wait for layers."""
        settings = ConnectorSettings.of(extra_config)
        return bool(settings.host_cache or settings.disk_cache)

    # -- the scheduler's half

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        self._pool = gpu_block_pool

    def set_xfer_handshake_metadata_pp_aware(self, metadata: Mapping[Any, KVConnectorHandshakeMetadata]) -> None:
        """All workers have started: what they have makes the cache."""
        inventories = []
        for _, found in sorted(metadata.items()):
            assert isinstance(found, WorkerInventory)
            inventories.append(found.inventory)
        follows = self._settings.device_policy and self._pool.enable_caching and not POOL_LACKS
        if self._settings.device_policy and POOL_LACKS:
            log.warning("vLLM %s lacks %s: its blocks are evicted by LRU", vllm.__version__, ", ".join(POOL_LACKS))
        self._cache = OuterCache(
            self._settings,
            self._pool,
            self._block,
            inventories,
            estimated_cost(self._vllm_config, self._settings.profile),
            follows_device=follows,
        )
        if self._settings.reports:
            self._reporter = Reporter(self._cache)
        log.info(
            "knowledge cache: %s, blocks of %d tokens, device blocks %s, %d segments found on disk",
            ", ".join(f"{tier.name} {tier.capacity / 2**30:.2f} GiB" for tier in self._cache.hierarchy.lower),
            self._block,
            f"in the order of {self._settings.policy}" if follows else "left to vLLM's LRU",
            len(self._cache.tree),
        )

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        ticket = self._ticket(request)
        self.cache.make_room(request.num_tokens - num_computed_tokens)
        if ticket is None:
            return 0, False
        limit = (request.num_tokens - 1) // self._block * self._block  # one token at least is computed
        return self.cache.match(ticket, num_computed_tokens, limit)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        ticket = self.cache.ticket(request.request_id)
        if ticket is None or (not num_external_tokens and request.num_computed_tokens):
            return  # nothing of ours, or the second call, when what was waited for has come
        ids = blocks.get_block_ids()[0]
        self.cache.begin(ticket, ids, num_external_tokens)

    def get_external_cache_hit_sources(self, request: Any, num_external_tokens: int) -> dict[CacheHitSource, int]:
        ticket = self.cache.ticket(request.request_id)
        if ticket is None or not num_external_tokens:
            return {}
        return {SOURCES[name]: tokens for name, tokens in ticket.found_by_tier.items()}

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        cached = scheduler_output.scheduled_cached_reqs
        computed = {new.req_id: new.num_computed_tokens for new in scheduler_output.scheduled_new_reqs}
        computed |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        prefill = 0
        for request_id, tokens in scheduler_output.num_scheduled_tokens.items():
            ticket = self.cache.ticket(request_id)
            if ticket is None:
                continue
            reached = min(ticket.prompt_tokens, computed[request_id] + tokens)
            prefill += max(0, reached - computed[request_id])
            ticket.reached = max(ticket.reached, reached)
            if ticket.committed < len(ticket.path):
                assert self._kv_cache_manager is not None
                blocks = self._kv_cache_manager.get_blocks(request_id).blocks[0]
                self.cache.computed(ticket, computed[request_id] + tokens, blocks)
        if self._reporter is not None:
            preempted = len(scheduler_output.preempted_req_ids or ())
            decode = scheduler_output.total_num_scheduled_tokens - prefill
            self._reporter.scheduled(prefill, decode, preempted)
        return StepOrders(self.cache.dispatch.take(), idle=not scheduler_output.num_scheduled_tokens)

    def update_connector_output(self, connector_output: Any) -> None:
        if connector_output.invalid_block_ids:
            assert self._kv_cache_manager is not None
            tables = [self._kv_cache_manager.get_block_ids(name)[0] for name in self.cache.requests()]
            self.cache.lost(set(connector_output.invalid_block_ids), tables)
        meta = connector_output.kv_connector_worker_meta
        if meta is not None:
            self.cache.dispatch.hear(meta.reports)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        del block_ids
        ticket = self.cache.ticket(request.request_id)
        if self._reporter is not None and (name := _name(request)):
            self._reporter.ended(name, ticket)
        if ticket is None:
            return False, None
        self.cache.finish(ticket)
        return False, {"cached_tokens": ticket.sources}

    def has_pending_push_work(self) -> bool:
        """Orders are carried out, and reported, by steps alone; so are bulletins brought."""
        if self._cache is None:
            return False
        return self._cache.busy or (self._reporter is not None and self._reporter.pending)

    def get_kv_connector_stats(self) -> Any:
        if self._cache is None:
            return None
        bulletin = None
        if self._reporter is not None:
            self._reporter.stepped()
            bulletin = self._reporter.take()
        return RagCacheStats.of(self._cache, self._malformed, bulletin)

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Any:
        return RagCacheStats(data=data or {})

    def reset_cache(self) -> bool | None:
        self.cache.clear()
        if self._reporter is not None:
            self._reporter.cleared()
        return True

    def _ticket(self, request: Any) -> Ticket | None:
        """The request's, made when it is first asked for; None for one whose tokens do not say what its KV is."""
        ticket = self.cache.ticket(request.request_id)
        if ticket is not None or request.mm_features or request.prompt_token_ids is None:
            return ticket
        tokens = request.prompt_token_ids
        try:
            lengths = lengths_of(request.kv_transfer_params, len(tokens))
        except BadBoundaries as error:
            self._malformed += 1
            log.warning("request %s: %s; cut into chunks instead", request.request_id, error)
            lengths = None
        path = passages(tokens, lengths, self._block, self._settings.chunk_tokens) if self._settings.keeps else []
        ticket = self.cache.open(request.request_id, path, _namespace(request))
        ticket.name, ticket.prompt_tokens = _name(request), len(tokens)
        return ticket

    # -- a worker's half

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        self._paged = paged = PagedKV(kv_caches)
        token = paged.block_bytes // self._block
        disk = None
        inventory = Inventory(token)
        if self._settings.disk is not None:
            parallel = self._vllm_config.parallel_config
            fingerprint = blocks_fingerprint(self._vllm_config, self._block, paged.describe())
            rank = f"worker-{parallel.data_parallel_rank}-{parallel.rank}-of-{parallel.world_size}"
            folder = Path(self._settings.disk.folder) / rank
            disk = DiskStore.open(folder, self._settings.disk.size // parallel.world_size, fingerprint)
            inventory = Inventory(token, fingerprint, disk.usable, disk.page_size, disk.records())
        self._inventory = inventory
        self._store = BlockStore(paged, self._block, disk)

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        assert self._inventory is not None
        return WorkerInventory(self._inventory)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        del forward_context, kwargs
        if self._store is not None:
            self._store.before(self._step().orders)

    def wait_for_layer_load(self, layer_name: str) -> None:
        if self._paged is not None:
            self._paged.wait_for_layer(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing: blocks are copied once they are whole, after the forward."""

    def wait_for_save(self) -> None:
        if self._store is not None:
            step = self._step()
            self._store.after(step.orders, idle=step.idle)
            self._results = self._store.take()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        del finished_req_ids
        arrived, self._results.arrived = self._results.arrived, set()
        return None, arrived or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        bad, self._results.bad_blocks = self._results.bad_blocks, set()
        return bad

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        reports, self._results.reports = self._results.reports, Reports()
        return StepReports(reports) if reports.outcomes else None

    def shutdown(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _step(self) -> StepOrders:
        step = self._get_connector_metadata()
        assert isinstance(step, StepOrders)
        return step


def _name(request: Any) -> str:
    """What a service in front calls it; empty if it does not say."""
    params = request.kv_transfer_params
    return str(params.get(NAME_PARAM, "")) if isinstance(params, dict) else ""


def _namespace(request: Any) -> str:
    """Who may share KV: as in vLLM's own prefix cache, requests of one salt and one adapter."""
    parts = []
    if request.cache_salt is not None:
        parts.append(f"salt {request.cache_salt}")
    if request.lora_request is not None:
        parts.append(f"adapter {request.lora_request.lora_name} {request.lora_request.lora_path}")
    return "; ".join(parts) or "default"
