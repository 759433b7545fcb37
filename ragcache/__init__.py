"""Whose KV do we have? Prompts, the knowledge tree, its policies and tiers, and the service that answers from them.

The names below are the Python API. Each is imported when it is first used, so that `import ragcache` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers: what __getattr__ gives
    from ragcache.cache.cache import KnowledgeCache
    from ragcache.cache.lease import Lease
    from ragcache.cli.assembly.open_service import open_service
    from ragcache.cli.config import ServeConfig
    from ragcache.cost import PrefillProfile
    from ragcache.errors import RagCacheError
    from ragcache.policy import POLICIES, Policy
    from ragcache.prompt.prompt import Prompt
    from ragcache.replay.run import replay
    from ragcache.replay.workload import Workload
    from ragcache.service.answer import Answer, Delta, Query, Retrieved
    from ragcache.service.service import RagService
    from ragcache.simulate.simulation import Simulation
    from ragcache.simulate.trace import Trace
    from ragcache.tree.segment import Segment
    from ragcache.tree.tree import KnowledgeTree
    from server.client import RagClient

__version__ = "0.1.0"

__all__ = [
    "POLICIES",
    "Answer",
    "Delta",
    "KnowledgeCache",
    "KnowledgeTree",
    "Lease",
    "Policy",
    "PrefillProfile",
    "Prompt",
    "Query",
    "RagCacheError",
    "RagClient",
    "RagService",
    "Retrieved",
    "Segment",
    "ServeConfig",
    "Simulation",
    "Trace",
    "Workload",
    "__version__",
    "open_service",
    "replay",
]

_MODULES = {
    "POLICIES": "ragcache.policy",
    "Answer": "ragcache.service.answer",
    "Delta": "ragcache.service.answer",
    "KnowledgeCache": "ragcache.cache.cache",
    "KnowledgeTree": "ragcache.tree.tree",
    "Lease": "ragcache.cache.lease",
    "Policy": "ragcache.policy",
    "PrefillProfile": "ragcache.cost",
    "Prompt": "ragcache.prompt.prompt",
    "Query": "ragcache.service.answer",
    "RagCacheError": "ragcache.errors",
    "RagClient": "server.client",
    "RagService": "ragcache.service.service",
    "Retrieved": "ragcache.service.answer",
    "Segment": "ragcache.tree.segment",
    "ServeConfig": "ragcache.cli.config",
    "Simulation": "ragcache.simulate.simulation",
    "Trace": "ragcache.simulate.trace",
    "Workload": "ragcache.replay.workload",
    "open_service": "ragcache.cli.assembly.open_service",
}


def __getattr__(name: str) -> Any:
    if name == "replay":  # a package of this name, which can be called: see there
        return importlib.import_module("ragcache.replay")
    if name not in _MODULES:
        raise AttributeError(f"module 'ragcache' has no attribute {name!r}")
    if name in ("RagClient", "open_service"):  # they import packages whose names others choose, too
        importlib.import_module("ragcache.cli.clash").check_packages()
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
