"""SimulatedEngine: steps that take time and compute nothing. For a loop with virtual time, without a thread."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass

from ragcache.engine.progress import Progress
from ragcache.engine.protocol import (
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    FinishReason,
    Job,
    Started,
    Token,
)
from ragcache.engine.simulated.roofline import Roofline
from ragcache.engine.simulated.step_cost import StepCost
from ragcache.reuse.plan import prefix_and_rest

Deliver = Callable[[EngineEvent], None]

_STARTED = Started()
_MARGIN = 1.0  # no logits, no doubt


@dataclass(slots=True, eq=False)
class SimulatedKV:
    """KV of `length` tokens in memory for `capacity` tokens: the numbers alone."""

    capacity: int
    length: int = 0

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return self.capacity - self.length


@dataclass(slots=True, eq=False)
class _Running:
    """A job between submission and its last event."""

    deliver: Deliver
    progress: Progress
    spans: list[SimulatedKV]  # to be filled, in order: the plan's targets, then the question's memory
    max_tokens: int
    position: int  # of the next token to compute
    turn: int
    started: bool = False
    cancelled: bool = False
    generated: int = 0
    filling: int = 0  # index of the span that is filled next

    @property
    def computed_tokens(self) -> int:
        return self.progress.computed_tokens

    def fill(self, tokens: int) -> None:
        """Enters the KV of this many more tokens into the spans."""
        self.position += tokens
        while tokens:
            span = self.spans[self.filling]
            written = min(tokens, span.capacity - span.length)
            span.length += written
            tokens -= written
            if tokens:
                self.filling += 1


class SimulatedEngine:
    """Composes its steps as the embedded engine does, and lets each pass in the time that `cost` says.

    Each step has a token of every decoding job, and of the prompts, in order of their turns, as much as `prefill_chunk`
    allows. A step begins when the one before ends, with all that was submitted until then, or at once when the engine
    is idle. Started is delivered when it begins, all other events when it ends, in order of the jobs' turns, by
    callbacks of the loop that ran at the first submission: `submit` delivers nothing. An exception that `deliver`
    raises goes to the loop.

    An answer is as long as `max_tokens` says. Each of its tokens is its position, modulo `vocab`. Of the KV that a plan
    reads, only the size counts.
    """

    def __init__(
        self,
        cost: StepCost,
        *,
        bytes_per_token: int,
        context_length: int,
        prefill_chunk: int = 512,
        vocab: int = 32000,
    ) -> None:
        for name, value in (("prefill_chunk", prefill_chunk), ("bytes_per_token", bytes_per_token), ("vocab", vocab)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.cost = cost
        self._bytes_per_token = bytes_per_token
        self._context_length = context_length
        self._prefill_chunk = prefill_chunk
        self._vocab = vocab
        self._running: list[_Running] = []
        self._batch: list[tuple[_Running, int]] = []  # the current step: jobs and prompt tokens, 0 for a decode
        self._timer: asyncio.Handle | None = None  # the end of the current step, or the beginning of the first
        self._any_cancelled = False
        self._closed = False
        self._steps = 0
        self._step_seconds = 0.0
        self._prefill_tokens = 0
        self._decode_tokens = 0

    @classmethod
    def of(cls, roofline: Roofline, *, context_length: int | None = None) -> SimulatedEngine:
        """An engine with the roofline's model, machine and chunks. `context_length` may exceed the model's own."""
        shape = roofline.model
        return cls(
            roofline,
            bytes_per_token=shape.kv_bytes_per_token,
            context_length=context_length or shape.context_length,
            prefill_chunk=roofline.prefill_chunk,
            vocab=shape.vocab,
        )

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def bytes_per_token(self) -> int:
        return self._bytes_per_token

    def allocate(self, tokens: int) -> SimulatedKV:
        return SimulatedKV(tokens)

    def submit(self, job: Job, deliver: Deliver) -> Callable[[], None]:
        if self._closed:
            raise RuntimeError("the engine is closed")
        own: SimulatedKV = job.memory
        if not job.question or job.max_tokens < 1 or own.room < len(job.question) + job.max_tokens - 1:
            raise ValueError("a job needs a question, max_tokens >= 1 and memory for both")
        exact, computed = prefix_and_rest(job.plan)
        if len(job.targets) != len(computed):
            raise ValueError(f"a job with {len(computed)} computed pieces has {len(job.targets)} targets for their KV")
        running = _Running(
            deliver=deliver,
            progress=Progress.of(computed, len(job.question)),
            spans=[*job.targets, own],
            max_tokens=job.max_tokens,
            position=sum(map(len, exact)),
            turn=job.turn,
        )
        insort(self._running, running, key=lambda each: each.turn)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_soon(self._begin_step)

        def cancel() -> None:
            running.cancelled = True
            self._any_cancelled = True

        return cancel

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self._running),
            steps=self._steps,
            step_seconds=self._step_seconds,
            prefill_tokens=self._prefill_tokens,
            decode_tokens=self._decode_tokens,
            alive=not self._closed,
        )

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        running, self._running, self._batch = self._running, [], []
        for job in running:
            job.deliver(Failed("the engine was shut down", job.computed_tokens))

    def _begin_step(self) -> None:
        if self._any_cancelled:
            self._any_cancelled = False
            for running in [running for running in self._running if running.cancelled]:
                self._finish(running, "cancelled")
        if self._closed:  # by a listener
            return
        if not self._running:
            self._timer = None
            return
        decodes = [running for running in self._running if not running.progress.pending]
        batch = [(running, 0) for running in decodes]
        chunks: list[tuple[int, int]] = []
        budget = self._prefill_chunk
        for running in self._running:
            if budget and running.progress.pending:
                tokens = min(budget, running.progress.pending)
                budget -= tokens
                batch.append((running, tokens))
                chunks.append((running.position, tokens))
        seconds = self.cost.step(chunks, [running.position for running in decodes])
        self._batch = batch
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end_step, seconds)
        for running, _ in batch:
            if not running.started and not self._closed:
                running.started = True
                running.deliver(_STARTED)

    def _end_step(self, seconds: float) -> None:
        batch, self._batch = self._batch, []
        self._steps += 1
        self._step_seconds += seconds
        for _, tokens in batch:
            self._prefill_tokens += tokens
            self._decode_tokens += not tokens
        for running, tokens in batch:
            if self._closed:
                return
            running.fill(tokens or 1)
            if tokens:
                event = running.progress.advance(tokens)
                if event is not None:
                    running.deliver(event)
                if running.progress.pending:
                    continue
            self._advance(running)
        if not self._closed:
            self._begin_step()

    def _advance(self, running: _Running) -> None:
        """The next token of a job whose prompt is computed."""
        running.generated += 1
        running.deliver(Token(running.position % self._vocab, _MARGIN))
        if running.generated == running.max_tokens and not self._closed:
            self._finish(running, "length")

    def _finish(self, running: _Running, reason: FinishReason) -> None:
        self._running.remove(running)
        running.deliver(Finished(reason, running.computed_tokens))
