"""Assembly: a RagService put together from its settings."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ragcache.cache.cache import KnowledgeCache
from ragcache.cache.interface import DiskTier, HostTier
from ragcache.cache.mover import ThreadMover
from ragcache.cli.config import ServeConfig
from ragcache.cost import PrefillCost, PrefillProfile
from ragcache.engine.torch.engine import TorchEngine, leave_cores_to_engine
from ragcache.engine.torch.model import TorchModel
from ragcache.engine.torch.profiling import Setting, estimate, find_profile
from ragcache.engine.torch.transfer import KVTransfer, kv_fingerprint
from ragcache.errors import ConfigError
from ragcache.model.checkpoint import Checkpoint
from ragcache.policy import POLICIES
from ragcache.prompt.template import PromptTemplate
from ragcache.replay.finder import SimulatedFinder, made_up
from ragcache.replay.search_profile import SearchProfile
from ragcache.replay.service import SimulatedSettings
from ragcache.replay.workload import Workload
from ragcache.service.limits import Limits
from ragcache.service.retriever_finder import RetrieverFinder
from ragcache.service.service import RagService
from ragcache.storage.lmdb_store import DiskStore
from ragcache.storage.stores import DiskRecords, HostMemory
from retrieval.retriever import Retriever

log = logging.getLogger(__name__)

# the question's embedding is a few milliseconds of work beside an engine that uses every core
EMBEDDER_THREADS = 1


def assemble(config: ServeConfig, announce: Callable[[str], object] = log.info) -> RagService:
    """Loads index, embedder and model. The caller closes the service. `announce` is told which prefill times are used.

    Raises ConfigError, ModelError or RetrievalError for whatever does not fit; nothing is left open then. Limits the
    calling thread to one torch thread.
    """
    leave_cores_to_engine()
    with contextlib.ExitStack() as opened:
        retriever = Retriever.open(config.index, threads=EMBEDDER_THREADS)
        opened.callback(retriever.close)
        checkpoint = Checkpoint.resolve(config.model)
        model = TorchModel.load(checkpoint)
        template = PromptTemplate.load(
            checkpoint, max_doc_tokens=config.max_doc_tokens, max_question_tokens=config.max_question_tokens
        )
        threads = config.threads or available_cores()
        cost, described = _choose_cost(model, config, threads)
        announce(described)
        _check_sizes(config, len(template.system), model)
        cache = _cache(config, len(template.system), model, cost)
        opened.callback(cache.close)
        engine = TorchEngine(model, prefill_chunk=config.prefill_chunk, threads=threads)
        opened.pop_all()
    limits = Limits(
        top_k=config.top_k,
        max_tokens=config.max_tokens,
        max_batch=config.max_batch,
        max_waiting=config.max_waiting,
        reorder_window=config.reorder_window,
        max_prefill_batch=config.max_prefill_batch,
        speculate=config.speculate == "dynamic",
    )
    return RagService(RetrieverFinder(retriever, template), cache, engine, limits, model_name=checkpoint.name)


def assemble_replay(
    settings: SimulatedSettings,
    workload: Workload,
    *,
    model: str,
    system_tokens: int,
    searches: SearchProfile | None,
    seed: int,
    threads: int,
) -> tuple[RagService, PrefillCost, dict[str, Any]]:
    """A service that computes here what a workload asks, over made-up documents of its sizes: with its prefill times
    and a description. `hardware` and `model` of the settings are not used. The caller closes the service.

    Limits the calling thread to one torch thread.
    """
    leave_cores_to_engine()
    checkpoint = Checkpoint.resolve(model)
    loaded = TorchModel.load(checkpoint)
    tokenizer = PromptTemplate.load(checkpoint, max_doc_tokens=1024, max_question_tokens=512).tokenizer
    finder = SimulatedFinder(
        workload,
        system_tokens=system_tokens,
        searches=searches,
        seed=seed,
        tokens=made_up(tokenizer.get_vocab_size(with_added_tokens=False)),
        tokenizer=tokenizer,
    )
    threads = threads or available_cores()
    token = loaded.layout.bytes_per_token
    capacity = settings.device_cache or 2 * 2**30
    if capacity < token:
        raise ConfigError(f"device_cache is {capacity} bytes; one token of {checkpoint.name} takes {token}")
    keep = settings.policy != "none"
    make = POLICIES[settings.policy if keep else "lru"]
    profile = find_profile(loaded, threads)
    cost: PrefillCost = estimate(loaded) if profile is None else profile
    lower: dict[str, Any] = {}
    if settings.host_cache:
        transfer = KVTransfer(loaded.layout, loaded.device, None)
        host_policy = make(settings.host_cache // token)
        lower["copies"] = ThreadMover("kv-copies", transfer.initializer)
        lower["host"] = HostTier(settings.host_cache, token, host_policy, HostMemory(transfer))
    cache = KnowledgeCache(
        capacity,
        token,
        make(capacity // token),
        keep=keep,
        cost=cost,
        admission=settings.admission,
        working=min(finder.longest() * token, capacity // 2) if settings.admission == "competes" else 0,
        **lower,
    )
    engine = TorchEngine(loaded, prefill_chunk=settings.prefill_chunk, threads=threads)
    limits = settings.limits(max(request.output for request in workload.requests), finder.corpus_size)
    service = RagService(finder, cache, engine, limits, model_name=checkpoint.name)
    described = {**asdict(settings), "hardware": "here", "model": checkpoint.name, "device_cache": capacity}
    return service, cost, {**described, "system_tokens": system_tokens, "threads": threads}


def _check_sizes(config: ServeConfig, system_tokens: int, model: TorchModel) -> None:
    if config.max_tokens >= model.context_length:
        raise ConfigError(f"max_tokens is {config.max_tokens}; the model's context is {model.context_length} tokens")
    smallest = _smallest_request(config, system_tokens, model)
    if config.device_cache < smallest:
        raise ConfigError(
            f"device_cache is {config.device_cache} bytes; one request without documents may need {smallest}"
        )
    _warn_of_overflow(config, system_tokens, model.context_length)


def _smallest_request(config: ServeConfig, system_tokens: int, model: TorchModel) -> int:
    """Bytes of KV that a request without documents may take."""
    return model.layout.bytes_per_token * (system_tokens + config.max_question_tokens + config.max_tokens)


def _cache(config: ServeConfig, system_tokens: int, model: TorchModel, cost: PrefillCost) -> KnowledgeCache:
    token = model.layout.bytes_per_token
    # what an ordinary request computes, but not more than half: the rest of the cache must be good for something
    usual = _smallest_request(config, system_tokens, model) + token * config.top_k * config.max_doc_tokens
    cache = KnowledgeCache(
        config.device_cache,
        token,
        POLICIES[config.policy](config.device_cache // token),
        keep=config.cache,
        cost=cost,
        admission=config.admission,
        working=min(usual, config.device_cache // 2) if config.admission == "competes" else 0,
        **_lower_tiers(config, model),
    )
    if config.disk is not None:
        cache.restore()
    return cache


def _lower_tiers(config: ServeConfig, model: TorchModel) -> dict[str, Any]:
    """The host and the disk tier, if there are to be any, and who moves KV: for KnowledgeCache."""
    if not config.host_cache and config.disk is None:
        return {}
    transfer = KVTransfer(model.layout, model.device, None if config.kv_store_dtype == "device" else torch.float16)
    token = transfer.stored_bytes_per_token
    make = POLICIES[config.policy]
    tiers: dict[str, Any] = {
        "copies": ThreadMover("kv-copies", transfer.initializer),
        "writes": ThreadMover("kv-writes", transfer.initializer),
        "reads": ThreadMover("kv-reads", transfer.initializer),
    }
    if config.host_cache:
        capacity = config.host_cache
        tiers["host"] = HostTier(capacity, token, make(capacity // token), HostMemory(transfer))
    if config.disk is not None:
        fingerprint = kv_fingerprint(model, transfer)
        with tqdm(desc=f"reading {config.disk.folder}", disable=None, leave=False, delay=2, unit="") as bar:
            store = DiskStore.open(
                config.disk.folder, config.disk.size, fingerprint, progress=functools.partial(_advance, bar)
            )
        tiers["disk"] = DiskTier(store.usable, make(store.usable // token), DiskRecords(store, transfer, fingerprint))
    return tiers


def _advance(bar: tqdm[Any], done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def _choose_cost(model: TorchModel, config: ServeConfig, threads: int) -> tuple[PrefillCost, str]:
    """What the policy weighs by, and that in a line."""
    if config.profile == "auto":
        profile = find_profile(model, threads)
        if profile is None:
            return estimate(model), "prefill times: estimated from the model's shape (`ragcache profile` measures them)"
        where = Setting.of(model, threads).file
    else:
        where = Path(config.profile).expanduser()
        profile = PrefillProfile.load(where)
        if differences := Setting.of(model, threads).differences(profile):
            log.warning("%s was measured with %s", where, ", ".join(differences))
    chunks = f", in chunks of {profile.prefill_chunk} tokens" if profile.prefill_chunk != config.prefill_chunk else ""
    return profile, f"prefill times: {where}, measured {profile.measured_at}{chunks}"


def _warn_of_overflow(config: ServeConfig, system_tokens: int, context_length: int) -> None:
    longest = system_tokens + config.top_k * config.max_doc_tokens + config.max_question_tokens + config.max_tokens
    if longest > context_length:
        log.warning(
            "a question over %d long documents may need %d tokens, the model reads %d: such questions are refused; "
            "a smaller --top-k or --max-doc-tokens avoids it",
            config.top_k,
            longest,
            context_length,
        )


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
