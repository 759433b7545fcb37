"""Engine: prefill over leased KV, decode, cancel. What every engine promises, and the words it speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy; `seed` None draws a fresh one."""

    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One generation.

    `cached` is the KV the prompt starts with, in order; it is read, never written. `missing` are the token ids of
    the segments that follow it and whose KV the caller wants to keep, each with the KV memory it goes to;
    `question` the token ids behind them. `memory` has room for the question and `max_tokens` more.
    All KV belongs to the caller before the job starts and after it has finished; between, the engine uses it.
    """

    cached: Sequence[Any]
    missing: Sequence[tuple[Sequence[int], Any]]
    question: Sequence[int]
    memory: Any
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class Started:
    """The engine works on the job now; until here it waited."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The whole prompt is computed: the KV of every missing segment is complete."""

    computed_tokens: int


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. `margin` is the logit of the best candidate less that of the second."""

    id: int
    margin: float


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of a job that was not failed by the engine; its KV is the caller's again."""

    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Failed:
    """Last event of a job that the engine could not carry out; its KV is the caller's again, content undefined."""

    message: str


EngineEvent = Started | Prefilled | Token | Finished | Failed


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Totals since the start. `step_seconds` is time spent in forward passes."""

    running: int
    steps: int
    step_seconds: float
    prefill_tokens: int
    decode_tokens: int


class Engine(Protocol):
    """Computes tokens; owns neither the knowledge tree nor the request.

    Events of a job arrive in the order Started, Prefilled, Token…, then exactly one of Finished and Failed; they
    are delivered on a thread of the engine's, or, if it has none, by callbacks of the event loop, never by `submit`.
    Greedy output does not depend on what was cached, up to float rounding: where the two best logits differ by less
    than about 1e-4 either may be chosen.
    """

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and output together."""

    @property
    def bytes_per_token(self) -> int:
        """KV bytes of one token on the device."""

    def allocate(self, tokens: int) -> Any:
        """Device memory for the KV of `tokens`; freed when the last reference goes."""

    def submit(self, job: Job, deliver: Callable[[EngineEvent], None]) -> Callable[[], None]:
        """Queues the job and returns a function that cancels it.

        Cancelling takes effect at the next step, is announced by `Finished("cancelled")`, and does nothing to a
        job that has ended.
        """

    def stats(self) -> EngineStats:
        """A consistent snapshot; callable from any thread."""

    def close(self) -> None:
        """Fails what runs and ends the engine's threads."""
