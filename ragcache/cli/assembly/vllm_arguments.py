"""Engine arguments: what vLLM is started with, given the settings of a server."""

from __future__ import annotations

import os
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

from ragcache.cli.config import ServeConfig
from ragcache.engine.cores import available_cores
from ragcache.engine.vllm.worker.draws import DRAWS
from ragcache.errors import ConfigError
from ragcache.model.checkpoint import Checkpoint

CPU_BLOCK = 32  # tokens: the fewest that vLLM's attention takes there; a document's last block is shared
WORKERS = {"tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"}  # options for more than one
OURS = ("model", "kv_transfer_config", "kv_cache_memory_bytes", "max_num_seqs", "max_num_batched_tokens")


def engine_arguments(config: ServeConfig) -> AsyncEngineArgs:
    """vLLM's arguments for these settings.

    Raises ConfigError for options that vLLM does not have, for those that follow from other settings, and where vLLM
    finds no device.
    """
    options = config.vllm
    if taken := sorted(set(options) & set(OURS)):
        raise ConfigError(f"vllm_options: {', '.join(taken)} follow from the options of `ragcache serve`")
    on_cpu = current_platform.is_cpu()
    if not on_cpu and not current_platform.is_cuda_alike():
        raise ConfigError(
            "this vLLM finds no device to run on: it is built for GPUs, and there is none. On a CPU: make setup-vllm"
        )
    # a fork of a process that has threads may hang, and vLLM's worker stumbles over modules that we have imported
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    settings: dict[str, Any] = {
        "model": Checkpoint.resolve(config.model).location,
        "kv_cache_memory_bytes": config.device_cache,
        "max_num_seqs": config.max_batch,
        "max_num_batched_tokens": max(config.prefill_chunk, config.max_batch),
        "enable_chunked_prefill": True,
        "enable_prefix_caching": config.cache,
        "scheduling_policy": "priority",  # the service's order
        "kv_transfer_config": transfer_config(config),
        "max_model_len": -1,  # the model's, or what the KV has room for
        "disable_log_stats": True,
    }
    if on_cpu:
        if not WORKERS & set(options):
            _leave_cores_to_the_kernel(config.threads or available_cores())
        if options.get("speculative_config"):
            raise ConfigError("vllm_options: speculative_config is for GPUs: vLLM does not join it with draws on a CPU")
        settings |= {"dtype": "float32", "block_size": CPU_BLOCK}
        options = options | {"logits_processors": [DRAWS, *options.get("logits_processors", [])]}
    try:
        return AsyncEngineArgs(**settings | options)
    except TypeError as error:
        raise ConfigError(f"vllm_options: {error}") from error


def _leave_cores_to_the_kernel(threads: int) -> None:
    """Has vLLM's one worker, which inherits this environment, compute with this many threads and bind none to a core.

    A bound thread waits for its core while another core is free, and with it all threads of the step. vLLM binds those
    of several workers, one to each NUMA node, which stays as it is. Nor does it split the KV of one head over threads,
    which would wait for one another in a loop of vLLM's own. What the operator has set counts.
    """
    os.environ.setdefault("VLLM_CPU_ATTN_SPLIT_KV", "0")
    if "VLLM_CPU_OMP_THREADS_BIND" not in os.environ:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def transfer_config(config: ServeConfig) -> dict[str, Any]:
    """The settings of the connector, in the form of `vllm serve --kv-transfer-config`."""
    extra: dict[str, Any] = {
        "host_cache": config.host_cache,
        "disk_cache": config.disk_cache,
        "disk_cache_replace": config.disk_cache_replace,
        "device_policy": config.cache,
        "reports": True,
        "policy": config.policy,
        "admission": config.admission,
    }
    if config.profile != "auto":
        extra["profile"] = config.profile
    return {
        "kv_connector": "RagCacheConnector",
        "kv_connector_module_path": "ragcache.engine.vllm.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": extra,
    }
