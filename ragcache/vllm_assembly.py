"""VllmAssembly: a RagService over vLLM, put together from its settings."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

from ragcache.config import ServeConfig
from ragcache.engine.checkpoint import Checkpoint
from ragcache.engine.vllm.engine import VllmEngine
from ragcache.engine.vllm.ledger import VllmLedger
from ragcache.errors import ConfigError
from ragcache.prompt_template import PromptTemplate
from ragcache.retriever_finder import RetrieverFinder
from ragcache.service import Limits, RagService
from retrieval.retriever import Retriever

log = logging.getLogger(__name__)

EMBEDDER_THREADS = 1
CPU_BLOCK = 32  # tokens: the fewest that vLLM's attention takes there; a document's last block is shared
OURS = ("model", "kv_transfer_config", "kv_cache_memory_bytes", "max_num_seqs", "max_num_batched_tokens")


def assemble(config: ServeConfig, announce: Callable[[str], object] = log.info) -> RagService:
    """Starts vLLM with the connector, loads index and embedder. The caller closes the service.

    Raises ConfigError, ModelError or RetrievalError for whatever does not fit; nothing is left open then.
    """
    arguments = engine_arguments(config)
    checkpoint = Checkpoint.resolve(config.model)
    template = PromptTemplate.load(
        checkpoint, max_doc_tokens=config.max_doc_tokens, max_question_tokens=config.max_question_tokens
    )
    with contextlib.ExitStack() as opened:
        retriever = Retriever.open(config.index, threads=EMBEDDER_THREADS)  # what is wrong with it is told at once
        opened.callback(retriever.close)
        announce("vLLM starts; its log says how")
        engine = VllmEngine(arguments)
        opened.callback(engine.close)
        if config.max_tokens >= engine.context_length:
            raise ConfigError(f"max_tokens is {config.max_tokens}; vLLM's context is {engine.context_length} tokens")
        opened.pop_all()
    limits = Limits(
        top_k=config.top_k,
        max_tokens=config.max_tokens,
        max_batch=config.max_batch,
        max_waiting=config.max_waiting,
        reorder_window=0,  # what is cached is vLLM's to know: the order is that of arrival
        max_prefill_batch=config.max_prefill_batch,
        speculate=config.speculate == "dynamic",
    )
    ledger = VllmLedger(engine.capacity_tokens, engine.bytes_per_token)
    return RagService(RetrieverFinder(retriever, template), ledger, engine, limits, model_name=checkpoint.name)


def engine_arguments(config: ServeConfig) -> AsyncEngineArgs:
    """vLLM's arguments for these settings. ConfigError for options that it does not have, or that have another name
    here, and where there is no device."""
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
        "max_model_len": -1,  # the model's, or what the KV has room for
        "disable_log_stats": True,
    }
    if on_cpu:
        settings |= {"dtype": "float32", "block_size": CPU_BLOCK}
    if config.cache:
        settings["kv_transfer_config"] = transfer_config(config)
    try:
        return AsyncEngineArgs(**settings | options)
    except TypeError as error:
        raise ConfigError(f"vllm_options: {error}") from error


def transfer_config(config: ServeConfig) -> dict[str, Any]:
    """What `vllm serve --kv-transfer-config` would be told."""
    extra: dict[str, Any] = {
        "host_cache": config.host_cache,
        "disk_cache": config.disk_cache,
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
