"""Machine: what runs a model: how long its steps take, how much KV it holds, how fast KV comes to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ragcache.engine.simulated.step_cost import StepCost


class Machine(StepCost, Protocol):
    """A model on a machine; its call is a PrefillCost, of a prompt that runs alone."""

    @property
    def described(self) -> Mapping[str, Any]:
        """For a report: `hardware` and `model` by name, and whatever else tells this machine from others."""

    @property
    def bytes_per_token(self) -> int:
        """KV of a token."""

    @property
    def context_length(self) -> int:
        """Tokens that the model was made for; 0 if nobody says."""

    @property
    def vocab(self) -> int:
        """Different tokens."""

    @property
    def host_rate(self) -> float:
        """Bytes a second between the host and all devices together, in one direction."""

    def kv_capacity(self) -> int:
        """Bytes that are left for KV beside the weights. ConfigError if none are."""

    def __call__(self, cached_tokens: int, new_tokens: int) -> float:
        """Seconds of the prefill, in steps of the service's chunks."""
