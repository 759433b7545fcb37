"""Machine: what a replay knows of a model on its hardware: times of steps, room for KV, rate of the host link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ragcache.engine.simulated.step_cost import StepCost


class Machine(StepCost, Protocol):
    """A model on its hardware. Calling it gives the seconds of a lone prefill: it is a PrefillCost."""

    @property
    def described(self) -> Mapping[str, Any]:
        """For a report: `hardware` and `model` by name, and all else that distinguishes this machine from others."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's KV."""

    @property
    def context_length(self) -> int:
        """Longest prompt and output, in tokens, that the model was trained for; 0 if that is unknown."""

    @property
    def vocab(self) -> int:
        """Number of different tokens."""

    @property
    def host_rate(self) -> float:
        """Bytes a second between the host and all devices together, in one direction."""

    def kv_capacity(self) -> int:
        """Bytes that are left for KV beside the weights. ConfigError if none are."""

    def __call__(self, cached_tokens: int, new_tokens: int) -> float:
        """Seconds of the prefill, in steps of the service's chunks."""
