"""Engines: the assembly of each engine, imported by name when it is asked for."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable

from ragcache.cli.config import ServeConfig
from ragcache.engine.vllm.interface import require_package
from ragcache.service.service import RagService

log = logging.getLogger(__name__)


def assemble(config: ServeConfig, announce: Callable[[str], object] = log.info) -> RagService:
    """A service over the engine that the settings name. The caller closes it. `announce` gets lines for people.

    Raises ConfigError, ModelError or RetrievalError for whatever does not fit; nothing is left open then.
    """
    if config.engine == "vllm":
        require_package()
    service: RagService = importlib.import_module(f"ragcache.cli.assembly.{config.engine}").assemble(config, announce)
    return service
