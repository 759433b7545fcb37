"""Batch: the jobs that run in a torch engine, and the step over them."""

from __future__ import annotations

import logging
import threading
import time
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ragcache.engine.progress import Progress
from ragcache.engine.protocol import (
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    Job,
    LastEvent,
    Preempted,
    Prefilled,
    Progressed,
    Started,
    Token,
)
from ragcache.engine.torch.kv import KVSpan
from ragcache.engine.torch.model import StepInput, TorchModel
from ragcache.engine.torch.preemption import chosen_to_give_way, is_out_of_memory
from ragcache.engine.torch.sampler import Sampler
from ragcache.reuse.plan import prefix_and_rest

log = logging.getLogger(__name__)

Deliver = Callable[[EngineEvent], None]


@dataclass(slots=True, eq=False)
class RunningJob:
    """A job between submission and its last event. Touched by the engine's thread only, but for `cancelled`."""

    deliver: Deliver
    sampler: Sampler
    prompt: list[int]  # the tokens to compute before the answer: of the plan's pieces, then of the question
    progress: Progress  # of computing them
    spans: list[KVSpan]  # all of the sequence's KV in order: read from the cache, computed, own
    first_writable: int  # spans before this one are shared, and only read
    turn: int
    position: int  # of the next token to compute
    generated: int  # tokens of the answer, those of earlier jobs included
    last_token: int  # `generated` of the last
    # set by the caller. It has no references, so that a caller who keeps the means to cancel keeps no KV alive
    cancelled: threading.Event
    started: bool = False
    ended: bool = False
    next_token: int = -1

    @classmethod
    def of(cls, job: Job, deliver: Deliver) -> RunningJob:
        """The job as the batch runs it. Raises ValueError for one that cannot be done."""
        own: KVSpan = job.memory
        if not job.question or job.max_tokens < 1 or own.room < len(job.question) + job.max_tokens - 1:
            raise ValueError("a job needs a question, max_tokens >= 1 and memory for both")
        exact, computed = prefix_and_rest(job.plan)
        if len(job.targets) != len(computed):
            raise ValueError(f"a job with {len(computed)} computed pieces has {len(job.targets)} targets for their KV")
        prompt = [token for piece in computed for token in piece.tokens] + list(job.question)
        read: list[KVSpan] = [piece.kv for piece in exact]
        return cls(
            deliver=deliver,
            sampler=Sampler(job.sampling),
            prompt=prompt,
            progress=Progress.of(computed, len(job.question)),
            spans=[*read, *job.targets, own],
            first_writable=len(read),
            turn=job.turn,
            position=sum(span.length for span in read),
            generated=job.generated,
            last_token=job.generated + job.max_tokens,
            cancelled=threading.Event(),
        )

    @property
    def decoding(self) -> bool:
        """Whether the whole prompt is computed."""
        return not self.progress.pending

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens whose KV this job has computed."""
        return self.progress.computed_tokens

    def step(self, budget: int) -> StepInput:
        """The next prompt tokens, `budget` at most, or the token generated last."""
        begin = self.computed_tokens
        tokens = self.prompt[begin : begin + budget] or [self.next_token]
        ends_prompt = len(tokens) >= self.progress.pending
        return StepInput(tokens, self.position, self.spans, self.spans[self.first_writable :], ends_prompt)

    def computed(self, step: StepInput) -> Progressed | Prefilled | None:
        """Takes in that the step's KV is computed. Returns what is to be delivered of the prompt's progress."""
        tokens = len(step.tokens)
        self.position += tokens
        return None if self.decoding else self.progress.advance(tokens)


Step = Sequence[tuple[RunningJob, StepInput]]


class Batch:
    """Steps over the jobs that run; used by one thread at a time, but for `stats`.

    Each step is one forward over a token of every decoding job and, of the prompts in order of their turns, at most
    `prefill_chunk` tokens. A forward that raises fails the jobs in it, one that lacks memory preempts the youngest of
    them and is composed anew. A listener (`deliver`) that raises an Exception loses its job, which ends with Failed;
    other jobs do not notice. Any other BaseException leaves `running` as it is, as does every error on a device that is
    lost.
    """

    def __init__(self, model: TorchModel, prefill_chunk: int) -> None:
        self.model = model
        self.running: list[RunningJob] = []  # in order of turns
        self._prefill_chunk = prefill_chunk
        self._lock = threading.Lock()
        self._stats = EngineStats(0, 0, 0.0, 0, 0)

    def stats(self) -> EngineStats:
        """A snapshot; callable from any thread."""
        with self._lock:
            return self._stats

    def add(self, running: RunningJob) -> None:
        """Takes in a submitted job, behind those whose turn was before its own or is the same."""
        insort(self.running, running, key=lambda each: each.turn)

    def drop_cancelled(self) -> None:
        """Ends the jobs that were cancelled since the last step."""
        for running in [running for running in self.running if running.cancelled.is_set()]:
            self._end(running, Finished("cancelled", running.computed_tokens))

    def step(self) -> None:
        """Makes one step, with as many of the jobs as there is memory for."""
        while chosen := self._choose():
            self._start(chosen)
            if any(running.ended for running, _ in chosen):
                continue
            begin = time.perf_counter()
            try:
                logits = self.model.forward([step for _, step in chosen])
            except Exception as error:  # whatever a forward raises ends its jobs at most, never the engine
                reason = f"{type(error).__name__}: {error}"
                if not is_out_of_memory(error):
                    if self.model.lost():
                        raise
                    log.exception("a step over %d jobs failed", len(chosen))
                    self._fail(chosen, reason)
                    return
            else:
                self._computed(chosen, logits, time.perf_counter() - begin)
                return
            # behind the handler: only now the traceback is gone, and what it kept in memory
            self._make_room(chosen, reason)

    def fail_all(self, message: str) -> None:
        """Ends every job, whatever its listener raises."""
        while self.running:
            running = self.running[-1]
            try:
                self._end(running, Failed(message, running.computed_tokens))
            except BaseException:
                log.exception("a listener failed")

    def _choose(self) -> Step:
        """Composes the next step: all decodes, and prompt tokens in order of turns up to the chunk."""
        chosen = [(running, running.step(1)) for running in self.running if running.decoding]
        budget = self._prefill_chunk
        for running in self.running:
            if not running.decoding and budget:
                step = running.step(budget)
                budget -= len(step.tokens)
                chosen.append((running, step))
        return chosen

    def _start(self, chosen: Step) -> None:
        for running, _ in chosen:
            if not running.started:
                running.started = True
                self._tell(running, Started())

    def _make_room(self, chosen: Step, reason: str) -> None:
        """Ends one job after a forward that lacked memory, so that the next step is smaller or there is none."""
        youngest = chosen_to_give_way(self.running, [running for running, _ in chosen])
        if youngest is not None:
            log.warning("out of memory in a step over %d jobs, the youngest is preempted: %s", len(chosen), reason)
            self._count(preempted=1)
            self._end(youngest, Preempted(youngest.computed_tokens))
            return
        alone = chosen[0][0]
        tokens = len(chosen[0][1].tokens)
        log.error("out of memory for one job alone, in a step of %d tokens: %s", tokens, reason)
        message = f"out of memory in a step of {tokens} tokens, with no other job to make room: use a smaller cache, "
        self._end(alone, Failed(f"{message}model or prefill chunk ({reason})", alone.computed_tokens))

    def _fail(self, chosen: Step, reason: str) -> None:
        for running, _ in chosen:
            self._end(running, Failed(reason, running.computed_tokens))

    def _computed(self, chosen: Step, logits: Tensor, seconds: float) -> None:
        """Books a forward that took `seconds` and moves its jobs on; `logits` [n, vocab] has a row for each step that
        wants them."""
        decoded = sum(running.decoding for running, _ in chosen)
        self._count(1, seconds, sum(len(step.tokens) for _, step in chosen) - decoded, decoded)
        rows = iter(logits)
        for running, step in chosen:
            row = next(rows) if step.wants_logits else None
            event = running.computed(step)
            if event is not None:
                self._tell(running, event)
            if row is not None and not running.ended:
                self._advance(running, row)

    def _advance(self, running: RunningJob, logits: Tensor) -> None:
        """Chooses and delivers the next token of a job whose prompt is computed. logits [vocab]."""
        try:
            running.next_token, margin = running.sampler.choose(logits, running.generated)
        except Exception as error:
            if self.model.lost():  # what a GPU cannot compute may show only when its results are read
                raise
            log.exception("no token could be chosen")
            self._end(running, Failed(f"{type(error).__name__}: {error}", running.computed_tokens))
            return
        if running.next_token in self.model.eos_tokens:
            self._end(running, Finished("stop", running.computed_tokens))
            return
        running.generated += 1
        self._tell(running, Token(running.next_token, margin))
        if running.generated == running.last_token and not running.ended:
            self._end(running, Finished("length", running.computed_tokens))

    def _tell(self, running: RunningJob, event: EngineEvent) -> None:
        try:
            running.deliver(event)
        except Exception as error:
            log.exception("a listener failed")
            self._end(running, Failed(f"its listener failed: {type(error).__name__}: {error}", running.computed_tokens))

    def _end(self, running: RunningJob, event: LastEvent) -> None:
        """Removes the job and delivers its last event, even if its listener fails at that."""
        self.running.remove(running)
        running.ended = True
        self._count()
        try:
            running.deliver(event)
        except Exception:
            log.exception("a listener failed")

    def _count(
        self, steps: int = 0, seconds: float = 0.0, prefilled: int = 0, decoded: int = 0, preempted: int = 0
    ) -> None:
        with self._lock:
            old = self._stats
            self._stats = EngineStats(
                running=len(self.running),
                steps=old.steps + steps,
                step_seconds=old.step_seconds + seconds,
                prefill_tokens=old.prefill_tokens + prefilled,
                decode_tokens=old.decode_tokens + decoded,
                preemptions=old.preemptions + preempted,
            )
