"""Replay: the requests of a workload sent at their times, and the outcome of each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ragcache.errors import BadQuery, DeadlineExceeded, Overloaded, PolicyError, RagCacheError
from ragcache.replay.workload import TimedRequest, Workload
from ragcache.service.answer import Answer, Query
from ragcache.service.service import RagService


@dataclass(frozen=True, slots=True)
class Served:
    """An answered request. Times are seconds; `ttft` (to the first token) and `total` count from its arrival."""

    ttft: float
    total: float
    search: float
    search_overlap: float
    queue: float
    prefill: float
    prompt_tokens: int
    computed_tokens: int
    device_tokens: int
    host_tokens: int
    disk_tokens: int
    output_tokens: int
    documents: int
    cached_documents: int | None  # None where it is not known
    speculations: int
    speculation_used: bool
    wasted_tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended: `served`, or `message` says why not. Times are seconds after the start of the replay."""

    number: int
    arrived: float
    ended: float
    how: str  # answered, overloaded, expired, rejected or failed
    served: Served | None = None
    message: str = ""


class Asker(Protocol):
    """Sends one request and waits for its answer."""

    async def ask(self, number: int, request: TimedRequest) -> Served:
        """Raises what the service raises: Overloaded, DeadlineExceeded, BadQuery, or another RagCacheError."""


class ServiceAsker:
    """Asks a service of this process whose finder is the workload's and whose system prompt has `system_tokens`."""

    def __init__(self, service: RagService, system_tokens: int, timeout_ms: int | None = None) -> None:
        self._service = service
        self._system_tokens = system_tokens
        self._timeout_ms = timeout_ms

    async def ask(self, number: int, request: TimedRequest) -> Served:
        query = Query(str(number), max_tokens=request.output, timeout_ms=self._timeout_ms)
        async with contextlib.aclosing(self._service.ask(query)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return self._served(event, request)
        raise AssertionError("a request ends in an answer or an error")

    def _served(self, answer: Answer, request: TimedRequest) -> Served:
        timing, usage, tiers = answer.timing, answer.usage, answer.usage.cached_tokens
        left = tiers.device + tiers.host + tiers.disk - self._system_tokens
        cached = 0
        for _, size in request.documents:
            left -= size
            if left < 0:
                break
            cached += 1
        return Served(
            ttft=timing.ttft_ms / 1000,
            total=timing.total_ms / 1000,
            search=timing.retrieval_ms / 1000,
            search_overlap=timing.search_overlap_ms / 1000,
            queue=timing.queue_ms / 1000,
            prefill=timing.prefill_ms / 1000,
            prompt_tokens=usage.prompt_tokens,
            computed_tokens=usage.computed_tokens,
            device_tokens=tiers.device,
            host_tokens=tiers.host,
            disk_tokens=tiers.disk,
            output_tokens=usage.completion_tokens,
            documents=len(request.documents),
            cached_documents=cached,
            speculations=answer.speculation.started,
            speculation_used=answer.speculation.used,
            wasted_tokens=answer.speculation.wasted_tokens,
        )


class Replay:
    """Sends each request of the workload at its time, whether or not those before have been answered.

    Runs on any event loop, by whose clock it sends and measures.
    """

    def __init__(self, workload: Workload, asker: Asker) -> None:
        self.workload = workload
        self._asker = asker
        self.most_in_flight = 0

    async def run(self, on_progress: Callable[[int], object] = lambda _: None) -> list[Outcome]:
        """The outcome of each request, in the workload's order. `on_progress` gets numbers of requests that ended.

        An error that is not a RagCacheError ends the replay: the other requests are cancelled.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        in_flight = 0
        outcomes: list[Outcome] = []

        async def send(number: int, request: TimedRequest) -> None:
            nonlocal in_flight
            outcomes.append(await self._outcome(number, request, start))
            in_flight -= 1
            on_progress(1)

        try:
            async with asyncio.TaskGroup() as requests:
                for number, request in enumerate(self.workload.requests):
                    wait = start + request.time - loop.time()
                    if wait > 0:
                        await asyncio.sleep(wait)
                    requests.create_task(send(number, request))
                    in_flight += 1
                    self.most_in_flight = max(self.most_in_flight, in_flight)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return sorted(outcomes, key=lambda outcome: outcome.number)

    async def _outcome(self, number: int, request: TimedRequest, start: float) -> Outcome:
        loop = asyncio.get_running_loop()
        arrived = loop.time() - start
        how, message, served = "answered", "", None
        try:
            served = await self._asker.ask(number, request)
        except Overloaded as error:
            how, message = "overloaded", str(error)
        except DeadlineExceeded as error:
            how, message = "expired", str(error)
        except BadQuery as error:
            how, message = "rejected", str(error)
        except PolicyError:  # no matter of this request: every later one would fail
            raise
        except RagCacheError as error:
            how, message = "failed", str(error)
        return Outcome(number, arrived, loop.time() - start, how, served, message)
