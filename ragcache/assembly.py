"""Assembly: a RagService put together from its settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from ragcache.cache import KnowledgeCache
from ragcache.config import ServeConfig
from ragcache.cost import PrefillCost, PrefillProfile
from ragcache.engine.checkpoint import Checkpoint
from ragcache.engine.model import TorchModel
from ragcache.engine.profiling import Setting, estimate, find_profile
from ragcache.engine.torch_engine import TorchEngine, leave_cores_to_engine
from ragcache.errors import ConfigError
from ragcache.policy import POLICIES
from ragcache.prompt import PromptTemplate
from ragcache.service import Limits, RagService
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
    retriever = Retriever.open(config.index, threads=EMBEDDER_THREADS)
    try:
        checkpoint = Checkpoint.resolve(config.model)
        model = TorchModel.load(checkpoint)
        template = PromptTemplate.load(
            checkpoint, max_doc_tokens=config.max_doc_tokens, max_question_tokens=config.max_question_tokens
        )
        if config.max_tokens >= model.context_length:
            raise ConfigError(
                f"max_tokens is {config.max_tokens}; the model's context is {model.context_length} tokens"
            )
        smallest = model.layout.bytes_per_token * (
            len(template.system) + config.max_question_tokens + config.max_tokens
        )
        if config.device_cache < smallest:
            raise ConfigError(
                f"device_cache is {config.device_cache} bytes; one request without documents may need {smallest}"
            )
        _warn_of_overflow(config, len(template.system), model.context_length)
        token = model.layout.bytes_per_token
        # what an ordinary request computes, but not more than half: the rest of the cache must be good for something
        usual = smallest + token * config.top_k * config.max_doc_tokens
        threads = config.threads or available_cores()
        cost, described = _choose_cost(model, config, threads)
        announce(described)
        cache = KnowledgeCache(
            config.device_cache,
            token,
            POLICIES[config.policy](config.device_cache // token),
            keep=config.cache,
            cost=cost,
            admission=config.admission,
            working=min(usual, config.device_cache // 2) if config.admission == "competes" else 0,
        )
        engine = TorchEngine(model, prefill_chunk=config.prefill_chunk, threads=threads)
    except BaseException:
        retriever.close()
        raise
    limits = Limits(config.top_k, config.max_tokens, config.max_batch, config.max_waiting)
    return RagService(retriever, template, cache, engine, limits, model_name=checkpoint.name)


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
