"""Speculation: prefill of documents that a search has not settled on yet (RAGCache, section 5.3).

Never changes an answer, only when its work starts: what was started for other documents than the final ones is
cancelled, at the engine's next step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from itertools import takewhile
from typing import NamedTuple

from ragcache.cache.lease import Lease
from ragcache.reuse.plan import Computed, exact_part
from ragcache.schedule.generation import Generation, GenerationTask

Path = list[bytes]  # keys of segments in order: another order is another KV


class Verdict(NamedTuple):
    """What to do about a provisional list of documents: `cancel` what runs, `start` with these."""

    cancel: bool
    start: bool


def judge(running: Path | None, candidate: Path, pool: int, max_prefill_batch: int) -> Verdict:
    """The rule of dynamic speculative pipelining, for the `candidate` path that a stage of the search has come to.

    `running` is the path that is speculated on, None for none. `pool` is the number of other requests whose prompts are
    not computed yet: with `max_prefill_batch` of them, no speculation starts.
    """
    if running == candidate:
        return Verdict(cancel=False, start=False)
    return Verdict(cancel=running is not None, start=pool < max_prefill_batch)


class Speculation:
    """The speculative generations of one request, at most one at a time.

    `generate` returns a Generation that calls its argument when it has ended. `pool` returns the number of prompts that
    are not computed yet, this request's own included.
    """

    def __init__(
        self,
        generate: Callable[[Callable[[], None]], Generation],
        pool: Callable[[], int],
        max_prefill_batch: int,
    ) -> None:
        self.started = 0
        self._generate = generate
        self._pool = pool
        self._max_prefill_batch = max_prefill_batch
        self._running: tuple[Path, Generation] | None = None
        self._wanted: GenerationTask | None = None  # to be started when the cancelled ones have ended
        self._cancelled: list[tuple[Path, Generation]] = []
        self._when_over: asyncio.Future[None] | None = None

    @property
    def running(self) -> bool:
        """Whether a generation runs that `cancel` would end."""
        return self._running is not None

    def is_needed(self, leaders: Collection[Lease]) -> bool:
        """Whether a request waits for KV that the running generation is to compute, or would, for these leases."""
        if self._running is None:
            return False
        lease = self._running[1].lease
        return lease.awaited or lease in leaders

    @property
    def wasted_tokens(self) -> int:
        """Tokens computed by generations that were cancelled and have ended, less those whose KV the cache keeps."""
        return sum(generation.wasted_tokens for _, generation in self._cancelled)

    @property
    def ending(self) -> bool:
        """Whether a cancelled generation still holds memory and a slot, as it does until the engine's next step."""
        return any(not generation.ended for _, generation in self._cancelled)

    def show(self, task: GenerationTask) -> None:
        """Takes in the task over the documents that a stage of the search has come to."""
        running = None if self._running is None else self._running[0]
        verdict = judge(running, _path(task), self._others(), self._max_prefill_batch)
        self._wanted = None
        if verdict.cancel:
            self.cancel()
        if verdict.start:
            self._start(task)

    async def settle(self, task: GenerationTask) -> Generation | None:
        """Takes in the final task. Returns the generation that runs for it, which is then the caller's, or None.

        Any other generation is cancelled, and waited for if the task can use some of what it computes: no job joins the
        engine before its next step anyway.
        """
        self._wanted = None
        if self._running is not None and self._running[0] == _path(task):
            generation, self._running = self._running[1], None
            return generation
        self.cancel()
        if self._computes_for(task):
            self._when_over = asyncio.get_running_loop().create_future()
            await self._when_over
        return None

    def cancel(self) -> None:
        """Ends the running generation at the engine's next step; does nothing if none runs."""
        self._wanted = None
        if self._running is not None:
            running, self._running = self._running, None
            self._cancelled.append(running)
            running[1].cancel()

    def _start(self, task: GenerationTask) -> None:
        """Starts now, or when the cancelled ones have ended if they compute something for it or are in its way."""
        if self._computes_for(task) or not self._started(task):
            self._wanted = task if self.ending else None

    def _started(self, task: GenerationTask) -> bool:
        generation = self._generate(self._ended)
        started = generation.start_now(task)
        if started:
            self.started += 1
            self._running = _path(task), generation
        return started

    def _ended(self) -> None:
        """A generation has ended: it no longer holds memory or a slot."""
        if self.ending:
            return
        if self._when_over is not None and not self._when_over.done():
            self._when_over.set_result(None)
        task, self._wanted = self._wanted, None
        if task is not None and judge(None, _path(task), self._others(), self._max_prefill_batch).start:
            self._started(task)

    def _computes_for(self, task: GenerationTask) -> bool:
        """Whether a cancelled generation still computes segments that the task begins with and that will be kept."""
        path = _path(task)
        for cancelled, generation in self._cancelled:
            if not generation.ended:
                common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, cancelled, strict=False)))
                shared = exact_part(generation.lease.plan)[:common]
                if any(isinstance(piece, Computed) for piece in shared):
                    return True
        return False

    def _others(self) -> int:
        """Number of prompts of other requests that are not computed yet."""
        own = [generation for _, generation in self._cancelled]
        if self._running is not None:
            own.append(self._running[1])
        return self._pool() - sum(generation.prefilling for generation in own)


def _path(task: GenerationTask) -> Path:
    return [segment.key for segment in task.prompt.path]
