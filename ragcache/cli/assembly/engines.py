"""Engines: the assembly of each engine, imported by name when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ragcache.cli.config import ServeConfig
from ragcache.engine.vllm.interface import require_package
from ragcache.service.service import RagService

# Loads what the settings name, and says lines for people on the way. Raises ConfigError, ModelError or RetrievalError
# for whatever does not fit; nothing is left open then. The caller closes the service.
Assemble = Callable[[ServeConfig, Callable[[str], object]], RagService]

# the question's embedding is a few milliseconds of work beside an engine that uses every core
EMBEDDER_THREADS = 1


def assembly_of(engine: str) -> Assemble:
    """The function that puts a service over this engine together. Raises ConfigError if the engine is not installed."""
    if engine == "vllm":
        require_package()
    assemble: Assemble = importlib.import_module(f"ragcache.cli.assembly.{engine}").assemble
    return assemble


def too_long(name: str, tokens: int, context_length: int) -> str:
    """What is wrong with a setting of as many tokens as the model reads, or more."""
    return (
        f"{name} is {tokens}; the model's context is {context_length} tokens: choose a number well below that, for "
        "documents, question and answer share it"
    )
