"""VllmAssembly: a RagService over vLLM, put together from its settings."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from ragcache.cli.assembly.vllm_arguments import engine_arguments
from ragcache.cli.config import ServeConfig
from ragcache.engine.vllm.front.engine import VllmEngine
from ragcache.engine.vllm.front.ledger import VllmLedger
from ragcache.errors import ConfigError
from ragcache.model.checkpoint import Checkpoint
from ragcache.prompt.template import PromptTemplate
from ragcache.service.limits import Limits
from ragcache.service.retriever_finder import RetrieverFinder
from ragcache.service.service import RagService
from retrieval.retriever import Retriever

log = logging.getLogger(__name__)

EMBEDDER_THREADS = 1


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
        reorder_window=config.reorder_window,
        max_prefill_batch=config.max_prefill_batch,
        speculate=config.speculate == "dynamic",
    )
    lower = [name for name, there in (("host", config.host_cache), ("disk", config.disk_cache)) if there]
    ledger = VllmLedger(engine, lower)
    return RagService(RetrieverFinder(retriever, template), ledger, engine, limits, model_name=checkpoint.name)
