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
    Progressed,
    Sampling,
    Token,
)
from ragcache.errors import DeadlineExceeded, EngineError
from ragcache.prompt.prompt import Prompt
from ragcache.reuse.plan import Computed, ReusePlan, keepable
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
    """What is to be generated, behind which prompt.

    `extra` tokens of KV are needed besides the path's. `generated` tokens at the end of the question are those of an
    answer that goes on. KV is shared with tasks of the same `namespace` only.
    """

    prompt: Prompt
    extra: int
    max_tokens: int
    sampling: Sampling
    generated: int = 0
    namespace: str = "default"

    def resumed(self, ids: Sequence[int]) -> GenerationTask:
        """The rest of the task, once `ids` have been generated."""
        prompt = dataclasses.replace(self.prompt, question=(*self.prompt.question, *ids))
        return dataclasses.replace(
            self, prompt=prompt, max_tokens=self.max_tokens - len(ids), generated=self.generated + len(ids)
        )


@dataclass(slots=True, eq=False)
class _Run:
    """A slot of the batch, from the turn on. Its lease ends with the engine's last event, whether or not it is read."""

    cache: CacheContract
    admission: AdmissionQueue
    lease: Lease
    on_end: Callable[[], None]
    guess: bool = False  # which makes way for requests, but not before it has computed what they wait for
    inbox: asyncio.Queue[tuple[float, EngineEvent]] = field(default_factory=asyncio.Queue)
    plan: ReusePlan = ()  # once the engine has the job
    targets: Sequence[Any] = ()  # KV memory of its computed pieces
    prefilled: bool = False
    ended: bool = False
    tokens: int = 0  # generated
    kept_tokens: int = 0  # computed, and handed to a cache that keeps them
    wasted_tokens: int = 0  # computed or generated, and not kept in the cache: lost if the job was cancelled
    cancel_job: Callable[[], None] | None = None  # once the engine has the job

    def on_event(self, time: float, event: EngineEvent) -> None:
        """Takes in an event of the engine, which came at `time`, and puts it into the inbox but for progress."""
        if isinstance(event, Progressed):
            if self.cache.shares_in_flight:
                self._keep_complete(event.computed_tokens)
                self._offer_way()
            return
        if isinstance(event, Prefilled):
            self._keep_complete(event.computed_tokens)
            self.prefilled = True
            self.admission.prefilled()
            self._offer_way()
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
        """Gives back lease and slot."""
        self.ended = True
        self.plan, self.targets = (), ()
        self.admission.leave(self.lease, prefilled=self.prefilled)
        self.on_end()

    def _offer_way(self) -> None:
        """Lets a request that it was in the way of, and that waited for its KV, try again."""
        if self.guess:
            self.admission.advance()

    def _keep_complete(self, computed_tokens: int) -> None:
        """Hands complete and exact KV over to the cache: all that was computed, unless the prompt was given up."""
        complete = keepable(self.plan, computed_tokens)
        self.lease.commit(self.targets[self.lease.committed : len(complete)])
        self.kept_tokens = sum(map(len, complete)) if self.cache.keeps else 0


class Generation:
    """One prompt's lease and job, from waiting for its turn to the engine's last event.

    `on_end` is called when an admitted prompt has released its lease. After an event Failed or Preempted it may be
    started again, which waits for its turn anew.
    """

    def __init__(
        self, cache: CacheContract, engine: Engine, admission: AdmissionQueue, on_end: Callable[[], None]
    ) -> None:
        self._cache = cache
        self._engine = engine
        self._admission = admission
        self._on_end = on_end
        self._run: _Run | None = None
        self.began = 0.0  # time of the loop at which `start_now` got its lease

    @property
    def lease(self) -> Lease:
        """The lease that the last start was given."""
        assert self._run is not None
        return self._run.lease

    @property
    def ended(self) -> bool:
        """Whether the last start holds nothing any more."""
        return self._run is None or self._run.ended

    @property
    def prefilling(self) -> bool:
        """Whether it has a slot of the batch, and its prompt is not computed yet."""
        return self._run is not None and not self._run.ended and not self._run.prefilled

    @property
    def wasted_tokens(self) -> int:
        """Once ended: tokens that it computed and generated, less those whose KV the cache took over; 0 before."""
        return 0 if self._run is None else self._run.wasted_tokens

    async def start(self, task: GenerationTask, deadline: float | None = None) -> None:
        """Waits for its turn and for the KV that is cached, then hands the rest to the engine.

        Where the device has no memory although the cache's books say so, it waits until another request leaves, since
        it is the youngest. Raises EngineError if it is alone, DeadlineExceeded at `deadline`, a time of the loop.
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
        """Starts at once if that overtakes no request and a slot and memory are free. Returns whether it did."""
        lease = self._admission.admit_now(lambda: self._lease(task))
        if lease is None:
            return False
        run = self._run = self._run_of(lease, guess=True)
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
            except Exception as error:  # no caller is left to raise it to: it arrives as the engine's failures do
                run.inbox.put_nowait((asyncio.get_running_loop().time(), Failed(f"{type(error).__name__}: {error}")))

        self._admission.when_ready(lease, loaded)
        return True

    async def next(self, deadline: float | None = None) -> tuple[float, EngineEvent]:
        """The engine's next event, and the time of the loop at which it came. DeadlineExceeded at `deadline`."""
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

    def _run_of(self, lease: Lease, *, guess: bool = False) -> _Run:
        return _Run(self._cache, self._admission, lease, self._on_end, guess)

    def _lease(self, task: GenerationTask) -> Lease | None:
        return self._cache.lease(task.prompt.path, task.extra, namespace=task.namespace)

    async def _admitted(self, task: GenerationTask) -> _Run:
        """A run whose KV is all on the device, once it is this request's turn and it has a slot of the batch."""
        loop, cached_as = asyncio.get_running_loop(), self._cache.cached_as
        while True:
            lease: Lease | None = await self._admission.admit(
                lambda: self._lease(task),
                cached_as(task.prompt.path),
                task.namespace,
                lambda: self._cache.leaders(task.prompt.path, namespace=task.namespace),
            )
            while lease is not None:
                run = self._run_of(lease)
                ready: asyncio.Future[None] = loop.create_future()
                self._admission.when_ready(lease, functools.partial(_resolve, ready))
                try:
                    await ready
                except BaseException:
                    run.end()
                    raise
                if not lease.broken:
                    return run
                # what could not be loaded is no longer in the cache, so that this ends
                lease.release()
                broken, lease = lease, self._lease(task)
                if lease is not None:
                    self._admission.renew(broken, lease)
            self._admission.leave(broken)

    def _submit(self, task: GenerationTask, run: _Run, *, guess: bool = False) -> None:
        loop = asyncio.get_running_loop()

        def deliver(event: EngineEvent) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: its requests have ended
                loop.call_soon_threadsafe(lambda: run.on_event(loop.time(), event))

        try:
            run.plan = run.lease.plan
            run.targets = [self._engine.allocate(len(piece)) for piece in run.plan if isinstance(piece, Computed)]
            job = Job(
                plan=run.plan,
                targets=run.targets,
                question=task.prompt.question,
                memory=self._engine.allocate(task.extra),
                max_tokens=task.max_tokens,
                sampling=task.sampling,
                generated=task.generated,
                guess=guess,
                namespace=task.namespace,
                turn=run.lease.turn,
            )
            run.cancel_job = self._engine.submit(job, deliver)
        except BaseException:
            run.end()
            raise


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
