"""Generation: a prompt's way through cache and engine, from its turn to its last token."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ragcache.admission import AdmissionQueue
from ragcache.cache import KnowledgeCache, Lease
from ragcache.engine.protocol import Engine, EngineEvent, Failed, Finished, Job, Prefilled, Sampling
from ragcache.errors import DeadlineExceeded
from ragcache.prompt import Prompt

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
    """What is to be generated: `extra` tokens of KV are needed besides the path's."""

    prompt: Prompt
    extra: int
    max_tokens: int
    sampling: Sampling


@dataclass(slots=True, eq=False)
class _Run:
    """A job in the engine. Its lease ends with the engine's last event, whoever still listens."""

    lease: Lease
    memory: Sequence[Any]
    inbox: asyncio.Queue[tuple[float, EngineEvent]]
    leave: Callable[[], None]

    def on_event(self, time: float, event: EngineEvent) -> None:
        if isinstance(event, Prefilled):
            self.lease.commit(self.memory)
        elif isinstance(event, Finished | Failed):
            self.memory = ()
            self.lease.release()
            self.leave()
        self.inbox.put_nowait((time, event))


class Generation:
    """One prompt's lease and job. `leave` is called when an admitted prompt has released its lease.

    After an event Failed it may be started again, which waits for its turn anew.
    """

    def __init__(
        self, cache: KnowledgeCache, engine: Engine, admission: AdmissionQueue, leave: Callable[[], None]
    ) -> None:
        self.attempts = 0
        self._cache = cache
        self._engine = engine
        self._admission = admission
        self._leave = leave
        self._run: _Run | None = None
        self._cancel: Callable[[], None] = lambda: None

    @property
    def lease(self) -> Lease:
        """What the last start was given."""
        assert self._run is not None
        return self._run.lease

    async def start(self, task: GenerationTask, deadline: float | None = None) -> None:
        """Waits for its turn and for the KV that is cached, then hands the rest to the engine."""
        self.attempts += 1
        lease = await within(deadline, self._lease(task))
        self._run, self._cancel = self._submit(task, lease)

    async def next(self, deadline: float | None = None) -> tuple[float, EngineEvent]:
        """The engine's next event, and when it came."""
        assert self._run is not None
        return await within(deadline, self._run.inbox.get())

    def cancel(self) -> None:
        """Stops the engine's work at its next step; nothing happens if it has ended."""
        self._cancel()

    async def _lease(self, task: GenerationTask) -> Lease:
        """A lease whose KV is all on the device, once it is this request's turn; pair with `leave`."""
        loop, cache, path = asyncio.get_running_loop(), self._cache, task.prompt.path
        while True:
            given = await self._admission.admit(lambda: cache.lease(path, task.extra), path)
            lease: Lease | None = given
            while lease is not None:
                ready: asyncio.Future[None] = loop.create_future()
                lease.when_ready(functools.partial(_resolve, ready))
                try:
                    await ready
                except BaseException:
                    lease.release()
                    self._leave()
                    raise
                if not lease.broken:
                    return lease
                # what could not be loaded is no longer in the cache, so that this ends
                lease.release()
                lease = cache.lease(path, task.extra)
            self._leave()

    def _submit(self, task: GenerationTask, lease: Lease) -> tuple[_Run, Callable[[], None]]:
        loop = asyncio.get_running_loop()
        run = _Run(lease, (), asyncio.Queue(), self._leave)

        def deliver(event: EngineEvent) -> None:
            # a closed loop has no one left to tell
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: run.on_event(loop.time(), event))

        try:
            run.memory = [self._engine.allocate(len(segment)) for segment in lease.missing]
            job = Job(
                cached=[node.kv for node in lease.nodes],
                missing=[(segment.tokens, kv) for segment, kv in zip(lease.missing, run.memory, strict=True)],
                question=task.prompt.question,
                memory=self._engine.allocate(task.extra),
                max_tokens=task.max_tokens,
                sampling=task.sampling,
            )
            return run, self._engine.submit(job, deliver)
        except BaseException:
            lease.release()
            self._leave()
            raise


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
