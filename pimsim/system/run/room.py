"""Room: how many requests a system's memory holds at once."""

from __future__ import annotations

from collections.abc import Sequence

from pimsim.errors import WorkloadError
from pimsim.system.described.config import SystemConfig
from pimsim.system.workload.requests import Request


def in_hand(config: SystemConfig, requests: Sequence[Request], memory: float) -> tuple[int, float]:
    """How many requests can be in hand in `memory` bytes, and the bytes that are left for documents' KV.

    Each may be as long as the longest of `requests`. WorkloadError, naming that one, if not even one fits.
    """
    model, workload = config.model, config.workload
    free = memory - model.weight_bytes
    tokens, number = max(
        (one.question + one.output + len(one.documents) * workload.document_tokens, -one.number) for one in requests
    )
    need = tokens * model.kv_token_bytes
    share = 1 - config.generation.cache_share if config.optimisations.g else 1.0
    room = min(workload.batch, int(free * share / need))
    if room < 1:
        raise WorkloadError(
            f"request {1 - number} has {tokens} tokens and needs {need / 1e9:.2f} GB of KV, and "
            f"{free * share / 1e9:.2f} GB are left: shorten the prompt or the answer, or take more devices "
            "(generation.devices)"
        )
    return room, free - room * need
