"""Interface: which releases of vLLM the connector works with, and the methods of vLLM that it needs."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ragcache.errors import ConfigError, RagCacheError

SUPPORTED = ("0.32",)  # releases that the connector was tested with
INSTALL = "run `make setup-vllm` (for a GPU with GPU=1) and use .venv-vllm/bin/ragcache"

# methods of KVConnectorBase_V1 that are overridden or called, with the parameters that are passed
CONNECTOR: Mapping[str, Sequence[str]] = {
    "bind_kv_cache_manager": ("kv_cache_manager",),
    "build_connector_meta": ("scheduler_output",),
    "build_connector_worker_meta": (),
    "get_block_ids_with_load_errors": (),
    "get_external_cache_hit_sources": ("request", "num_external_tokens"),
    "get_finished": ("finished_req_ids",),
    "get_handshake_metadata": (),
    "get_kv_connector_stats": (),
    "get_num_new_matched_tokens": ("request", "num_computed_tokens"),
    "has_pending_push_work": (),
    "register_kv_caches": ("kv_caches",),
    "request_finished": ("request", "block_ids"),
    "reset_cache": (),
    "set_xfer_handshake_metadata_pp_aware": ("metadata",),
    "start_load_kv": ("forward_context",),
    "update_connector_output": ("connector_output",),
    "update_state_after_alloc": ("request", "blocks", "num_external_tokens"),
    "wait_for_layer_load": ("layer_name",),
    "wait_for_save": (),
}
# methods of BlockPool
POOL: Mapping[str, Sequence[str]] = {"evict_blocks": ("block_ids",), "get_num_free_blocks": ()}
# methods of BlockPool that ordering its free blocks needs; without them its order is left alone
POOL_ORDER: Mapping[str, Sequence[str]] = {"touch": ("blocks",), "unpin_blocks": ("blocks", "on_reuse")}
# methods of AsyncLLM, for the engine of `ragcache serve`
ENGINE: Mapping[str, Sequence[str]] = {
    "from_engine_args": ("engine_args", "stat_loggers"),
    "generate": ("prompt", "sampling_params", "request_id", "priority"),
    "abort": ("request_id",),
    "reset_prefix_cache": ("reset_connector",),
}


def lacking(kind: type[Any], wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """The `wanted` methods, with their parameters, that a class does not have."""
    missing = []
    for name, parameters in wanted.items():
        method = getattr(kind, name, None)
        if method is None or not set(parameters) <= set(inspect.signature(method).parameters):
            missing.append(f"{kind.__name__}.{name}({', '.join(parameters)})")
    return missing


def require(kind: type[Any], wanted: Mapping[str, Sequence[str]], version: str) -> None:
    """RagCacheError that names the `wanted` methods which are missing from this release of vLLM, if any are."""
    if missing := lacking(kind, wanted):
        raise RagCacheError(
            f"vLLM {version} lacks {', '.join(missing)}; this connector works with {', '.join(SUPPORTED)}: {INSTALL}"
        )


def require_package() -> None:
    """Raises ConfigError if vLLM is not installed. Does not import it."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(f"--engine vllm: vLLM is not installed: {INSTALL}")


def is_tested(version: str) -> bool:
    """Whether the connector was tested with this release of vLLM."""
    return ".".join(version.split(".")[:2]) in SUPPORTED
