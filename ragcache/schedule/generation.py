"""Generation: a prompt's way through cache and engine, from its turn to its last token."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ragcache.cache.contract import CacheContract
from ragcache.cache.lease import Lease
from ragcache.engine.protocol import (
    Engine,
    EngineEvent,
    Failed,
    Finished,
    Job,
    Preempted,
    Prefilled,
    Sampling,
    Token,
)
from ragcache.errors import DeadlineExceeded, EngineError
from ragcache.prompt.prompt import Prompt
from ragcache.schedule.admission import AdmissionQueue

T = TypeVar("T")


async def within(deadline: float | None, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled with DeadlineExceeded at `deadline`, a time of the running loop."""
    if deadline is None:
        return await work
    try:
        return await asyncio.wait_for(work, max(0.0, deadline - asyncio.get_running_loop().time()))
    except TimeoutError as error:
        raise DeadlineExceeded("the question's timeout_ms is over") from error


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """What is to be generated: `extra` tokens of KV are needed besides the path's.

    `generated` tokens at the end of the question are those of an answer that goes on.
    """

    prompt: Prompt
    extra: int
    max_tokens: int
    sampling: Sampling
    generated: int = 0

    def resumed(self, ids: Sequence[int]) -> GenerationTask:
        """The rest of the task, once `ids` have been generated."""
        prompt = dataclasses.replace(self.prompt, question=(*self.prompt.question, *ids))
        return dataclasses.replace(
            self, prompt=prompt, max_tokens=self.max_tokens - len(ids), generated=self.generated + len(ids)
        )


@dataclass(slots=True, eq=False)
class _Run:
    """A place in the batch, from the turn on. Its lease ends with the engine's last event, whoever still listens."""

    cache: CacheContract
    admission: AdmissionQueue
    lease: Lease
    on_end: Callable[[], None]
    inbox: asyncio.Queue[tuple[float, EngineEvent]] = field(default_factory=asyncio.Queue)
    memory: Sequence[Any] = ()
    prefilled: bool = False
    ended: bool = False
    tokens: int = 0  # generated
    kept_tokens: int = 0  # computed, and handed to a cache that keeps them
    wasted_tokens: int = 0  # computed or generated, and neither kept in the cache nor of use to anybody if cancelled
    cancel_job: Callable[[], None] | None = None  # once the engine has it

    def on_event(self, time: float, event: EngineEvent) -> None:
        if isinstance(event, Prefilled):
            self._keep_complete(event.computed_tokens)
            self.prefilled = True
            self.admission.prefilled()
        elif isinstance(event, Token):
            self.tokens += 1
        elif isinstance(event, Finished | Failed | Preempted):
            if isinstance(event, Finished) and not self.prefilled:
                self._keep_complete(event.computed_tokens)
            kept = self.kept_tokens
            if isinstance(event, Finished) and event.kept_tokens is not None:
                kept = event.kept_tokens
            self.wasted_tokens = event.computed_tokens - kept + self.tokens
            self.end()
        self.inbox.put_nowait((time, event))

    def end(self) -> None:
        """Gives back lease and place."""
        self.ended = True
        self.memory = ()
        self.lease.release()
        self.admission.leave(prefilled=self.prefilled)
        self.on_end()

    def _keep_complete(self, computed_tokens: int) -> None:
        """Hands the KV of segments that are complete over to the cache: all, but of a prompt that was given up."""
        complete, tokens = 0, 0
        for segment in self.lease.missing:
            if tokens + len(segment) > computed_tokens:
                break
            complete, tokens = complete + 1, tokens + len(segment)
        self.lease.commit(self.memory[:complete])
        self.kept_tokens = tokens if self.cache.keeps else 0


class Generation:
    """One prompt's lease and job. `on_end` is called when an admitted prompt has released its lease.

    After an event Failed or Preempted it may be started again, which waits for its turn anew.
    """

    def __init__(
        self, cache: CacheContract, engine: Engine, admission: AdmissionQueue, on_end: Callable[[], None]
    ) -> None:
        self._cache = cache
        self._engine = engine
        self._admission = admission
        self._on_end = on_end
        self._run: _Run | None = None
        self.began = 0.0  # when `start_now` began to load what is cached, or handed over to the engine

    @property
    def lease(self) -> Lease:
        """What the last start was given."""
        assert self._run is not None
        return self._run.lease

    @property
    def ended(self) -> bool:
        """Whether the last start holds nothing any more."""
        return self._run is None or self._run.ended

    @property
    def prefilling(self) -> bool:
        """Whether it has a place in the batch, and its prompt is not computed yet."""
        return self._run is not None and not self._run.ended and not self._run.prefilled

    @property
    def wasted_tokens(self) -> int:
        """Once ended: tokens that it computed and generated, but for those of KV that the cache was given."""
        return 0 if self._run is None else self._run.wasted_tokens

    async def start(self, task: GenerationTask, deadline: float | None = None) -> None:
        """Waits for its turn and for the KV that is cached, then hands the rest to the engine.

        Where the device has no memory although the books have, it waits until somebody leaves, for it is the youngest;
        EngineError if it is alone.
        """
        while True:
            self._run = await within(deadline, self._admitted(task))
            try:
                self._submit(task, self._run)
                return
            except MemoryError as error:
                if not self._admission.running:
                    raise EngineError(
                        "the device has no memory for this request, though nothing else runs: serve with a smaller "
                        f"device cache ({error})"
                    ) from error
            await within(deadline, self._admission.next_leave())

    def start_now(self, task: GenerationTask) -> bool:
        """Starts without waiting for a turn, if that passes nobody and place and memory are free; says whether so."""
        lease = self._admission.admit_now(lambda: self._cache.lease(task.prompt.path, task.extra))
        if lease is None:
            return False
        run = self._run = self._run_of(lease)
        self.began = asyncio.get_running_loop().time()

        def loaded() -> None:
            if run.ended:
                return
            if lease.broken:
                run.end()
                run.inbox.put_nowait((asyncio.get_running_loop().time(), Failed("what was cached cannot be loaded")))
                return
            try:
                self._submit(task, run, guess=True)
            except Exception as error:  # nobody waits here: it is told as the engine's failures are
                run.inbox.put_nowait((asyncio.get_running_loop().time(), Failed(f"{type(error).__name__}: {error}")))

        lease.when_ready(loaded)
        return True

    async def next(self, deadline: float | None = None) -> tuple[float, EngineEvent]:
        """The engine's next event, and when it came."""
        assert self._run is not None
        return await within(deadline, self._run.inbox.get())

    def cancel(self) -> None:
        """Stops the engine's work at its next step; nothing happens if it has ended."""
        run = self._run
        if run is None or run.ended:
            return
        if run.cancel_job is None:  # on its way to the engine
            run.end()
        else:
            run.cancel_job()

    def _run_of(self, lease: Lease) -> _Run:
        return _Run(self._cache, self._admission, lease, self._on_end)

    async def _admitted(self, task: GenerationTask) -> _Run:
        """A run whose KV is all on the device, once it is this request's turn."""
        loop, cache, path = asyncio.get_running_loop(), self._cache, task.prompt.path
        while True:
            given = await self._admission.admit(lambda: cache.lease(path, task.extra), cache.cached_as(path))
            lease: Lease | None = given
            while lease is not None:
                run = self._run_of(lease)
                ready: asyncio.Future[None] = loop.create_future()
                lease.when_ready(functools.partial(_resolve, ready))
                try:
                    await ready
                except BaseException:
                    run.end()
                    raise
                if not lease.broken:
                    return run
                # what could not be loaded is no longer in the cache, so that this ends
                lease.release()
                lease = cache.lease(path, task.extra)
            self._admission.leave()

    def _submit(self, task: GenerationTask, run: _Run, *, guess: bool = False) -> None:
        loop = asyncio.get_running_loop()

        def deliver(event: EngineEvent) -> None:
            # a closed loop has no one left to tell
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: run.on_event(loop.time(), event))

        lease = run.lease
        try:
            run.memory = [self._engine.allocate(len(segment)) for segment in lease.missing]
            job = Job(
                cached=[node.kv for node in lease.nodes],
                missing=[(segment.tokens, kv) for segment, kv in zip(lease.missing, run.memory, strict=True)],
                question=task.prompt.question,
                memory=self._engine.allocate(task.extra),
                max_tokens=task.max_tokens,
                sampling=task.sampling,
                generated=task.generated,
                guess=guess,
            )
            run.cancel_job = self._engine.submit(job, deliver)
        except BaseException:
            run.end()
            raise


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
