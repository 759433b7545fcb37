"""vLLM assembly: starts vLLM, loads what a RagService in front of it is made of, and wires it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from ragcache.cli.assembly.engines import EMBEDDER_THREADS, too_long
from ragcache.cli.assembly.vllm_arguments import engine_arguments
from ragcache.cli.config import ServeConfig
from ragcache.engine.vllm.front.engine import VllmEngine
from ragcache.engine.vllm.front.ledger import VllmLedger
from ragcache.errors import ConfigError
from ragcache.model.checkpoint import Checkpoint
from ragcache.prompt.template import PromptTemplate
from ragcache.service.retriever_finder import RetrieverFinder
from ragcache.service.service import RagService
from ragcache.service.wire import Parts, wire
from retrieval.retriever import Retriever

log = logging.getLogger(__name__)


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
        retriever = Retriever.open(config.index, threads=EMBEDDER_THREADS)  # first: a wrong index is reported at once
        opened.callback(retriever.close)
        announce("vLLM starts; its log says how")
        engine = VllmEngine(arguments)
        opened.callback(engine.close)
        if config.max_tokens >= engine.context_length:
            raise ConfigError(too_long("max_tokens", config.max_tokens, engine.context_length))
        lower = [name for name, there in (("host", config.host_cache), ("disk", config.disk_cache)) if there]
        parts = Parts(
            finder=RetrieverFinder(retriever, template),
            engine=engine,
            kv=VllmLedger(engine, lower),
            model_name=checkpoint.name,
        )
        service = wire(config.service, parts)
        opened.pop_all()
    return service
