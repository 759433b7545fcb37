"""StepCost: seconds of an engine's step, given what it computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ragcache.cost import PrefillCost
from ragcache.errors import ConfigError


class StepCost(Protocol):
    """Seconds of a step that computes a chunk of some prompts and a token for each sequence that decodes."""

    def step(self, chunks: Sequence[tuple[int, int]], decodes: Sequence[int]) -> float:
        """Seconds, finite and never negative.

        `chunks`: for each prompt, the tokens before the chunk and those in it. `decodes`: for each sequence that
        decodes, the tokens before the one that it computes.
        """


def chunked(cost: StepCost, cached_tokens: int, new_tokens: int, chunk: int) -> float:
    """Seconds of the prefill of a prompt that runs alone, in steps of up to `chunk` tokens."""
    end = cached_tokens + new_tokens
    return sum(cost.step([(start, min(chunk, end - start))], ()) for start in range(cached_tokens, end, chunk))


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """A step as it was measured: prefills by a PrefillCost, such as a PrefillProfile, and decodes by a line.

    decode step = `step_seconds` + `sequence_seconds`·(sequences) + `token_seconds`·(tokens before, of all of them).
    Decodes that share a step with a prefill add to it what they add to each other: without `step_seconds`, which is
    mostly the reading of the weights, and which the prefill's time has in it. Chunks that share a step take as long as
    one after the other.
    """

    prefill: PrefillCost
    step_seconds: float
    sequence_seconds: float = 0.0
    token_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("step_seconds", "sequence_seconds", "token_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be a number of 0 or more, not {value}")

    def step(self, chunks: Sequence[tuple[int, int]], decodes: Sequence[int]) -> float:
        seconds = 0.0 if chunks else self.step_seconds
        for before, new in chunks:
            seconds += self.prefill(before, new)
        return seconds + self.sequence_seconds * len(decodes) + self.token_seconds * sum(decodes)
