"""TorchEngine: the embedded engine. One thread steps a TorchModel over all running jobs."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ragcache.engine.kv import KVSpan
from ragcache.engine.model import StepInput, TorchModel
from ragcache.engine.protocol import (
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    FinishReason,
    Job,
    Prefilled,
    Started,
    Token,
)
from ragcache.engine.sampler import Sampler

log = logging.getLogger(__name__)

Deliver = Callable[[EngineEvent], None]


def leave_cores_to_engine() -> None:
    """Limits the calling thread to one torch thread; to be called before it computes anything.

    Each thread that runs parallel torch work gets a pool of OpenMP threads of its own, and once the pools together
    exceed the cores libgomp stops spinning: a decode step of the engine then took 1.5 times as long.
    """
    torch.set_num_threads(1)


@dataclass(slots=True, eq=False)
class _Running:
    """A job between submission and its last event. Touched by the engine's thread only, but for `cancelled`."""

    deliver: Deliver
    sampler: Sampler
    pending: list[int]  # prompt tokens whose KV is not computed yet
    spans: list[KVSpan]  # all of the sequence's KV in order: cached, missing, own
    first_writable: int  # spans before this one are somebody else's
    last_token: int  # `generated` of the last
    position: int  # of the next token to compute
    cached_tokens: int
    # set by the caller. It refers to nothing, so keeping the means to cancel keeps no KV alive
    cancelled: threading.Event
    started: bool = False
    generated: int = 0  # tokens of the answer, those of earlier jobs included
    next_token: int = -1

    @property
    def decoding(self) -> bool:
        return not self.pending

    def step(self, budget: int) -> StepInput:
        """The next at most `budget` prompt tokens, or the token generated last."""
        tokens = self.pending[:budget] if self.pending else [self.next_token]
        ends_prompt = len(tokens) >= len(self.pending)
        return StepInput(tokens, self.position, self.spans, self.spans[self.first_writable :], ends_prompt)


class TorchEngine:
    """Steps: each runs one forward over a token of every decoding job and a chunk of the oldest prefill.

    `prefill_chunk` bounds the prompt tokens of a step, and so how long a decode or a cancellation waits.
    `threads` is the number of torch threads of the stepping thread (None: torch's default).
    """

    def __init__(self, model: TorchModel, *, prefill_chunk: int = 512, threads: int | None = None) -> None:
        if prefill_chunk < 1:
            raise ValueError(f"prefill_chunk must be at least 1, not {prefill_chunk}")
        self.model = model
        self._prefill_chunk = prefill_chunk
        self._threads = threads
        self._inbox: queue.SimpleQueue[_Running | None] = queue.SimpleQueue()
        self._running: list[_Running] = []
        self._lock = threading.Lock()
        self._stats = EngineStats(0, 0, 0.0, 0, 0)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="torch-engine", daemon=True)
        self._thread.start()

    @property
    def context_length(self) -> int:
        return self.model.context_length

    @property
    def bytes_per_token(self) -> int:
        return self.model.layout.bytes_per_token

    def allocate(self, tokens: int) -> KVSpan:
        return self.model.layout.allocate(tokens, self.model.device)

    def submit(self, job: Job, deliver: Deliver) -> Callable[[], None]:
        if self._closed:
            raise RuntimeError("the engine is closed")
        own: KVSpan = job.memory
        pending = [token for tokens, _ in job.missing for token in tokens] + list(job.question)
        if not job.question or job.max_tokens < 1 or own.room < len(job.question) + job.max_tokens - 1:
            raise ValueError("a job needs a question, max_tokens >= 1 and memory for both")
        cached_tokens = sum(span.length for span in job.cached)
        cancelled = threading.Event()
        self._inbox.put(
            _Running(
                deliver=deliver,
                sampler=Sampler(job.sampling),
                pending=pending,
                spans=[*job.cached, *(span for _, span in job.missing), own],
                first_writable=len(job.cached),
                last_token=job.generated + job.max_tokens,
                position=cached_tokens,
                cached_tokens=cached_tokens,
                cancelled=cancelled,
                generated=job.generated,
            )
        )
        return cancelled.set

    def stats(self) -> EngineStats:
        with self._lock:
            return self._stats

    def close(self) -> None:
        self._closed = True
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)  # OpenMP counts threads per calling thread
        while self._receive():
            self._drop_cancelled()
            if self._running:
                self._step_safely()
        for running in self._running:
            running.deliver(Failed("the engine was shut down"))
        self._running.clear()

    def _receive(self) -> bool:
        """Takes in what was submitted, waiting for it when idle; False when the engine is to end."""
        while True:
            try:
                running = self._inbox.get(block=not self._running)
            except queue.Empty:
                return True
            if running is None:
                return False
            self._running.append(running)

    def _drop_cancelled(self) -> None:
        for running in [r for r in self._running if r.cancelled.is_set()]:
            self._finish(running, "cancelled")

    def _finish(self, running: _Running, reason: FinishReason) -> None:
        self._running.remove(running)
        self._count(0, 0.0, 0, 0)
        running.deliver(Finished(reason))

    def _step_safely(self) -> None:
        batch = self._choose()
        try:
            self._step(batch)
        except Exception as error:  # whatever a forward raises ends its jobs, never the engine
            log.exception("a step over %d jobs failed", len(batch))
            for running, _ in batch:
                if running in self._running:
                    self._running.remove(running)
                    running.deliver(Failed(f"{type(error).__name__}: {error}"))

    def _choose(self) -> list[tuple[_Running, StepInput]]:
        """The next step: all that decode, and prompt tokens in order of arrival up to the chunk."""
        batch = [(r, r.step(1)) for r in self._running if r.decoding]
        budget = self._prefill_chunk
        for running in self._running:
            if not running.decoding and budget:
                step = running.step(budget)
                budget -= len(step.tokens)
                batch.append((running, step))
        return batch

    def _step(self, batch: list[tuple[_Running, StepInput]]) -> None:
        for running, _ in batch:
            if not running.started:
                running.started = True
                running.deliver(Started())
        begin = time.perf_counter()
        logits = self.model.forward([step for _, step in batch])
        seconds = time.perf_counter() - begin
        decoded = sum(running.decoding for running, _ in batch)
        self._count(1, seconds, sum(len(s.tokens) for _, s in batch) - decoded, decoded)
        rows = iter(logits)
        for running, step in batch:
            prefilling = bool(running.pending)
            running.position += len(step.tokens)
            del running.pending[: len(step.tokens)]
            if prefilling and not running.pending:
                running.deliver(Prefilled(computed_tokens=running.position - running.cached_tokens))
            if step.wants_logits:
                self._advance(running, next(rows))

    def _advance(self, running: _Running, logits: Tensor) -> None:
        """The next token of a job whose prompt is computed."""
        running.next_token, margin = running.sampler.choose(logits, running.generated)
        if running.next_token in self.model.eos_tokens:
            self._finish(running, "stop")
            return
        running.generated += 1
        running.deliver(Token(running.next_token, margin))
        if running.generated == running.last_token:
            self._finish(running, "length")

    def _count(self, steps: int, seconds: float, prefilled: int, decoded: int) -> None:
        with self._lock:
            old = self._stats
            self._stats = EngineStats(
                running=len(self._running),
                steps=old.steps + steps,
                step_seconds=old.step_seconds + seconds,
                prefill_tokens=old.prefill_tokens + prefilled,
                decode_tokens=old.decode_tokens + decoded,
            )
