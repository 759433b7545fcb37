"""WorkerHooks: the connector in one of vLLM's workers, which moves KV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ragcache.engine.torch.neighbour_watch import NeighbourWatch
from ragcache.engine.vllm.wire.identity import blocks_fingerprint
from ragcache.engine.vllm.wire.inventory import Inventory
from ragcache.engine.vllm.wire.orders import Orders, Reports
from ragcache.engine.vllm.wire.settings import ConnectorSettings
from ragcache.engine.vllm.worker.block_store import BlockStore, Results
from ragcache.engine.vllm.worker.paged_kv import PagedKV
from ragcache.storage.lmdb_store import DiskStore


class WorkerHooks:
    """A worker's blocks, host copies and disk cache, and the results of orders until vLLM asks for them.

    For each step vLLM calls `before`, `wait_for_layer` for each layer of a forward, then `after`, then what takes
    results. On a CPU, other processes are watched closely in between.
    """

    def __init__(
        self, settings: ConnectorSettings, vllm_config: Any, block_tokens: int, layers: Mapping[str, Tensor]
    ) -> None:
        """`layers`: the KV of each layer, by name. Opens the disk cache; ConfigError for KV of an unknown kind."""
        self._paged = PagedKV(layers)
        token = self._paged.block_bytes // block_tokens
        disk = None
        self.inventory = Inventory(token)
        if settings.disk is not None:
            parallel = vllm_config.parallel_config
            fingerprint = blocks_fingerprint(vllm_config, block_tokens, self._paged.describe())
            rank = f"worker-{parallel.data_parallel_rank}-{parallel.rank}-of-{parallel.world_size}"
            folder = Path(settings.disk.folder) / rank
            disk = DiskStore.open(
                folder,
                settings.disk.size // parallel.world_size,
                fingerprint,
                name=f"{vllm_config.model_config.model} in vLLM",
                replace=settings.disk.replace,
            )
            self.inventory = Inventory(token, fingerprint, disk.usable, disk.page_size, disk.records(), disk.others)
        self.store = BlockStore(self._paged, block_tokens, disk)
        self._results = Results()
        on_cpu = all(tensor.device.type == "cpu" for tensor in layers.values())
        self._watch = NeighbourWatch(torch.get_num_threads() if on_cpu else 1)

    def before(self, orders: Orders) -> None:
        """A step begins: starts its loads."""
        self._watch.resume()
        self.store.before(orders)

    def wait_for_layer(self, name: str) -> None:
        """What is queued on the device from now on sees the layer's loads complete."""
        self._paged.wait_for_layer(name)

    def after(self, orders: Orders, *, idle: bool) -> None:
        """The forward is queued: starts copies and writes. `idle`: nothing was computed in the step."""
        self.store.after(orders, idle=idle)
        self._results = self.store.take()
        self._watch.pause()

    def take_arrived(self) -> set[str]:
        """Requests whose loads have ended, if they waited for them."""
        arrived, self._results.arrived = self._results.arrived, set()
        return arrived

    def take_bad_blocks(self) -> set[int]:
        """Blocks that could not be filled."""
        bad_blocks, self._results.bad_blocks = self._results.bad_blocks, set()
        return bad_blocks

    def take_reports(self) -> Reports:
        """Outcomes of orders that have ended."""
        reports, self._results.reports = self._results.reports, Reports()
        return reports

    def close(self) -> None:
        """Finishes the work under way and lets go of the disk."""
        self._watch.close()
        self.store.close()
