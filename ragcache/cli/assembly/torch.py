"""Torch assembly: loads what a RagService that computes in this process is made of, and wires it."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from ragcache.cache.mover import ThreadMover
from ragcache.cli.assembly.engines import EMBEDDER_THREADS, too_long
from ragcache.cli.config import ServeConfig
from ragcache.cost import PrefillCost, PrefillProfile
from ragcache.engine.cores import available_cores
from ragcache.engine.torch.engine import TorchEngine, leave_cores_to_engine
from ragcache.engine.torch.model import TorchModel
from ragcache.engine.torch.prefill_profiler import Setting, estimate, find_profile
from ragcache.engine.torch.transfer import KVTransfer, kv_fingerprint
from ragcache.errors import ConfigError
from ragcache.model.checkpoint import Checkpoint
from ragcache.prompt.template import PromptTemplate
from ragcache.replay.finder import SimulatedFinder, made_up
from ragcache.replay.search_profile import SearchProfile
from ragcache.replay.service import SimulatedSettings
from ragcache.replay.workload import Workload
from ragcache.service.retriever_finder import RetrieverFinder
from ragcache.service.service import RagService
from ragcache.service.settings import ServiceSettings
from ragcache.service.wire import KvParts, Parts, wire
from ragcache.sizes import in_bytes
from ragcache.storage.lmdb_file import check_folder
from ragcache.storage.lmdb_store import DiskStore
from ragcache.storage.stores import DiskRecords, HostMemory
from retrieval.retriever import Retriever
from retrieval.user_path import user_path

log = logging.getLogger(__name__)


def assemble(config: ServeConfig, announce: Callable[[str], object] = log.info) -> RagService:
    """Loads index, embedder and model. The caller closes the service. `announce` gets a line about the prefill times.

    Raises ConfigError, ModelError or RetrievalError for whatever does not fit; nothing is left open then. Limits the
    calling thread to one torch thread.
    """
    leave_cores_to_engine()
    settings = config.service
    with contextlib.ExitStack() as opened:
        retriever = Retriever.open(config.index, threads=EMBEDDER_THREADS)
        opened.callback(retriever.close)
        if settings.disk_cache is not None:
            check_folder(settings.disk_cache.folder)  # before the seconds of loading
        checkpoint = Checkpoint.resolve(config.model)
        model = TorchModel.load(checkpoint)
        template = PromptTemplate.load(
            checkpoint, max_doc_tokens=config.max_doc_tokens, max_question_tokens=config.max_question_tokens
        )
        system_tokens, threads = len(template.system), config.threads or available_cores()
        cost, cost_in_words = _choose_cost(model, config, threads)
        announce(cost_in_words)
        top_k = min(config.top_k, len(retriever))  # as the service cuts it
        _check_sizes(config, system_tokens, model)
        least = min(_tokens_without_documents(config, system_tokens), model.context_length)
        _warn_of_overflow(config, top_k, system_tokens, model.context_length)
        kv = _kv_parts(settings, model, config.kv_store_dtype, opened)
        parts = Parts(
            finder=RetrieverFinder(retriever, template),
            engine=TorchEngine(model, prefill_chunk=settings.prefill_chunk, threads=threads),
            kv=replace(kv, cost=cost, request_tokens=least + top_k * config.max_doc_tokens),
            model_name=checkpoint.name,
        )
        opened.callback(parts.engine.close)
        service = wire(settings, parts)
        opened.pop_all()
    return service


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
    """A service that computes a workload's requests here, over made-up documents of the workload's sizes.

    Returns it with its prefill times (seconds) and a description for the report. `hardware` and `model` of the settings
    are not used. The caller closes the service. Raises ConfigError or ModelError. Limits the calling thread to one
    torch thread.
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
    profile = find_profile(loaded, threads)
    cost: PrefillCost = estimate(loaded) if profile is None else profile
    wired = settings.service(
        device_cache=settings.device_cache or 2 * 2**30, max_tokens=workload.longest_answer, top_k=finder.corpus_size
    )
    with contextlib.ExitStack() as opened:
        kv = _kv_parts(wired, loaded, "device", opened)
        parts = Parts(
            finder=finder,
            engine=TorchEngine(loaded, prefill_chunk=wired.prefill_chunk, threads=threads),
            kv=replace(kv, cost=cost, request_tokens=finder.longest()),
            model_name=checkpoint.name,
        )
        opened.callback(parts.engine.close)
        service = wire(wired, parts)
        opened.pop_all()
    machine = {"hardware": "here", "model": checkpoint.name, "device_cache": wired.device_cache}
    return service, cost, {**settings.described, **machine, "system_tokens": system_tokens, "threads": threads}


def _check_sizes(config: ServeConfig, system_tokens: int, model: TorchModel) -> None:
    if config.max_tokens >= model.context_length:
        raise ConfigError(too_long("max_tokens", config.max_tokens, model.context_length))
    tokens = _tokens_without_documents(config, system_tokens)
    smallest = model.layout.bytes_per_token * tokens
    if config.device_cache >= smallest:
        return
    if config.max_question_tokens >= model.context_length:
        raise ConfigError(too_long("max_question_tokens", config.max_question_tokens, model.context_length))
    raise ConfigError(
        f"device_cache is {in_bytes(config.device_cache)}, but a request without documents may have {tokens} tokens, "
        f"which take {in_bytes(smallest)}: give device_cache that or more, or lower max_question_tokens (now "
        f"{config.max_question_tokens}) or max_tokens (now {config.max_tokens})"
    )


def _tokens_without_documents(config: ServeConfig, system_tokens: int) -> int:
    """Tokens of the longest prompt without documents and the longest answer together."""
    return system_tokens + config.max_question_tokens + config.max_tokens


def _kv_parts(settings: ServiceSettings, model: TorchModel, store_dtype: str, opened: contextlib.ExitStack) -> KvParts:
    """The stores of the tiers that the settings ask for, and threads that move KV. `opened` closes them on failure."""
    token = model.layout.bytes_per_token
    if not settings.host_cache and settings.disk_cache is None:
        return KvParts(bytes_per_token=token)
    transfer = KVTransfer(model.layout, model.device, None if store_dtype == "device" else torch.float16)
    kv = KvParts(
        bytes_per_token=token,
        stored_bytes_per_token=transfer.stored_bytes_per_token,
        host=HostMemory(transfer) if settings.host_cache else None,
        copies=ThreadMover("kv-copies", transfer.initializer),
        writes=ThreadMover("kv-writes", transfer.initializer),
        reads=ThreadMover("kv-reads", transfer.initializer),
    )
    if settings.disk_cache is None:
        return kv
    folder, fingerprint = settings.disk_cache.folder, kv_fingerprint(model, transfer)
    with tqdm(desc=f"reading {folder}", disable=None, leave=False, delay=2, unit="") as bar:
        store = DiskStore.open(
            folder,
            settings.disk_cache.size,
            fingerprint,
            name=f"{model.name} with KV in {transfer.dtype_name}",
            replace=settings.disk_cache.replace,
            progress=functools.partial(_advance, bar),
        )
    opened.callback(store.close)
    return replace(kv, disk=DiskRecords(store, transfer, fingerprint), disk_capacity=store.usable)


def _advance(bar: tqdm[Any], done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def _choose_cost(model: TorchModel, config: ServeConfig, threads: int) -> tuple[PrefillCost, str]:
    """The prefill times that the policy weighs by, and a line that says where they are from."""
    if config.profile == "auto":
        profile = find_profile(model, threads)
        if profile is None:
            return estimate(model), "prefill times: estimated from the model's shape (`ragcache profile` measures them)"
        file = Setting.of(model, threads).file
    else:
        file = user_path(config.profile, "profile", ConfigError)
        profile = PrefillProfile.load(file)
        if differences := Setting.of(model, threads).differences(profile):
            log.warning("%s was measured with %s", file, ", ".join(differences))
    chunks = f", in chunks of {profile.prefill_chunk} tokens" if profile.prefill_chunk != config.prefill_chunk else ""
    return profile, f"prefill times: {file}, measured {profile.measured_at}{chunks}"


def _warn_of_overflow(config: ServeConfig, top_k: int, system_tokens: int, context_length: int) -> None:
    longest = system_tokens + top_k * config.max_doc_tokens + config.max_question_tokens + config.max_tokens
    if longest > context_length:
        log.warning(
            "a question over %d long documents may need %d tokens, but the model reads %d: such questions are refused; "
            "a smaller --top-k or --max-doc-tokens avoids it",
            top_k,
            longest,
            context_length,
        )
