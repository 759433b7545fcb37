"""RagService: one request's life, from the question to its last token."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import secrets
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from ragcache.cache.contract import CacheContract
from ragcache.cache.lease import Lease
from ragcache.cache.tier import IntegrityError
from ragcache.engine.protocol import (
    Engine,
    Failed,
    Finished,
    Preempted,
    Prefilled,
    Sampling,
    Started,
    Token,
)
from ragcache.errors import BadQuery, DeadlineExceeded, EngineError, Overloaded, RagCacheError, reason_of
from ragcache.prompt.transcript import Transcript
from ragcache.schedule.admission import AdmissionQueue
from ragcache.schedule.generation import Generation, GenerationTask, within
from ragcache.schedule.order import Order
from ragcache.schedule.speculation import Speculation
from ragcache.service.answer import (
    Answer,
    CachedTokens,
    Delta,
    Query,
    Retrieved,
    ServiceEvent,
    Speculated,
    Timing,
    Usage,
)
from ragcache.service.finder import Finder, Found
from ragcache.service.health import ENGINE, SEARCH, Health
from ragcache.service.limits import Limits

MAX_TEMPERATURE = 5.0
MAX_STOPS = 8
MAX_STOP_CHARACTERS = 200
CLEARING_SECONDS = 2.0  # for moves that are under way
IDLE_SECONDS = 1.0  # without a request or a move, before the books are recounted,
AUDIT_SECONDS = 60.0  # which takes seconds where there are many nodes, and so is not done again for so long

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ServiceStats:
    """Totals since the start; `outcomes` counts requests by how they ended, `cached_tokens` prompt tokens by tier.

    `retries` counts generations begun anew after a failure, `preemptions` those that gave way when device memory was
    exhausted. Of `speculations`, some were used; `wasted_tokens` are those that the others computed for nothing.
    `audits` counts how often the cache's books were recounted when idle, and `failed_audits` when they were wrong.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    computed_tokens: int = 0
    cached_tokens: Counter[str] = field(default_factory=Counter)
    completion_tokens: int = 0
    retries: int = 0
    preemptions: int = 0
    speculations: int = 0
    used_speculations: int = 0
    wasted_tokens: int = 0
    audits: int = 0
    failed_audits: int = 0


class RagService:
    """Answers questions from the finder's documents, reusing the KV that the knowledge cache holds.

    Belongs to one event loop. Every request ends in one Answer or one error, and what it held comes back either way.
    """

    def __init__(
        self,
        finder: Finder,
        cache: CacheContract,
        engine: Engine,
        limits: Limits,
        *,
        model_name: str = "model",
    ) -> None:
        self.model_name = model_name
        self.cache = cache
        self.engine = engine
        self.limits = limits
        self.stats = ServiceStats()
        self.finder = finder
        self._admission = AdmissionQueue(limits.max_batch, Order(cache.cached_paths, limits.reorder_window))
        self._admission.on_blocked = self._make_way
        self._searching = 0
        self._speculations: dict[Speculation, None] = {}  # that run or end, oldest first, and some more
        self._unsettled: list[Speculation] = []  # of requests that have ended, cancelled but not stopped yet
        self._audit: asyncio.Task[None] | None = None
        self._next_audit = 0.0
        cache.on_room(self._admission.advance)
        self._health = Health([ENGINE, SEARCH, *cache.lower_names])
        cache.on_moved(self._moved)

    @property
    def corpus_size(self) -> int:
        return self.finder.corpus_size

    @property
    def waiting(self) -> int:
        """Requests that the engine has not taken yet."""
        return self._searching + len(self._admission)

    @property
    def running(self) -> int:
        """Requests that the engine works on, speculations included."""
        return self._admission.running

    @property
    def health(self) -> Health:
        """Which parts work; see `Health`. Its times are of the running loop."""
        self.cache.refresh()
        stats = self.engine.stats()
        error = stats.error or "it was closed"
        if stats.alive:
            self._health.found(ENGINE)
        elif self._health.lost(ENGINE, error, asyncio.get_running_loop().time()):
            log.critical("the engine takes no more jobs, restart the server: %s", error)
        return self._health

    async def ask(self, query: Query) -> AsyncGenerator[ServiceEvent, None]:
        """Yields Retrieved, then Delta…, then Answer.

        Raises BadQuery for what cannot be asked, Overloaded when too many wait, DeadlineExceeded when the question's
        time is over, EngineError when the engine failed: twice, if it did so before the first token.
        Closing the iterator cancels the request.
        """
        answered = False
        try:
            events = self._answer(query)
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, Answer):  # now: who has the answer need not ask for the end
                        answered = True
                        self.stats.outcomes["answered"] += 1
                    yield event
        except BadQuery:
            self.stats.outcomes["rejected"] += 1
            raise
        except Overloaded:
            self.stats.outcomes["overloaded"] += 1
            raise
        except DeadlineExceeded:
            self.stats.outcomes["expired"] += 1
            raise
        except (GeneratorExit, asyncio.CancelledError):
            self.stats.outcomes["cancelled"] += not answered
            raise
        except Exception:
            self.stats.outcomes["failed"] += 1
            raise

    async def clear(self) -> tuple[int, int]:
        """Drops all KV that no running request holds, on all tiers; returns how many nodes and bytes that were.

        What is being moved is waited for, but not for long: it holds what it moves.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + CLEARING_SECONDS
        nodes, size = self.cache.drop_unheld()
        while self.cache.moving and loop.time() < end:
            await asyncio.sleep(0.005)
            more_nodes, more = self.cache.drop_unheld()
            nodes, size = nodes + more_nodes, size + more
        return nodes, size

    async def finish_writing(self, seconds: float) -> None:
        """Waits for all moves, and for what is to be on disk to be there, but no longer than that.

        No request may run any more.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if self.cache.unwritten:
            log.warning("writing the KV of %d segments to disk ...", self.cache.unwritten)
        while (self.cache.unwritten or self.cache.moving) and loop.time() < end:
            await asyncio.sleep(0.02)
        if self.cache.unwritten:
            log.warning("the KV of %d segments is not on disk: the time for it is over", self.cache.unwritten)

    def close(self) -> None:
        """Ends the engine, the search and the cache's moves; requests still running fail."""
        self.engine.close()
        self.finder.close()
        self.cache.close()

    async def _answer(self, query: Query) -> AsyncGenerator[ServiceEvent, None]:
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        top_k, max_tokens, sampling = self._check(query)
        deadline = None if query.timeout_ms is None else arrived + query.timeout_ms / 1000
        if self.waiting >= self.limits.max_waiting + self._free_places():
            raise Overloaded(f"{self.waiting} requests wait already, the limit is {self.limits.max_waiting}")
        speculation = Speculation(self._generation, lambda: self._admission.pool, self.limits.max_prefill_batch)
        generation = self._generation()
        guessed: Generation | None = None  # the speculation that became the answer
        try:
            found, task = await within(deadline, self._find(query.question, top_k, max_tokens, sampling, speculation))
            retrieved = loop.time()
            request_id = f"rag-{uuid.uuid4().hex[:16]}"
            prompt = found.prompt
            if not self.cache.can_ever_lease(prompt.path, task.extra):
                raise BadQuery(
                    f"the prompt and {max_tokens} more tokens need "
                    f"{self.cache.bytes_of(len(prompt) + max_tokens) >> 20} MiB of KV, the device cache has "
                    f"{self.cache.capacity >> 20} MiB; ask for a smaller top_k",
                    field="top_k",
                    limit=self.cache.capacity,
                )
            guessed = await within(deadline, speculation.settle(task))
            overlap = 0.0
            if guessed is None:
                await generation.start(task, deadline)
            else:
                generation, overlap = guessed, retrieved - guessed.began
            yield Retrieved(request_id, found.documents)
            started = prefilled = first = last = retrieved
            failures = 0
            sources: Lease | None = None  # of the attempt that gave the first token
            transcript = Transcript(self.finder.tokenizer, query.stop)
            while True:
                now, event = await generation.next(deadline)
                now = max(now, retrieved)  # what a speculation has done before, the user gets with the documents
                if isinstance(event, Started) and sources is None:
                    started = prefilled = first = last = now
                elif isinstance(event, Prefilled) and sources is None:
                    prefilled = first = last = now
                elif isinstance(event, Token):
                    last = now
                    if sources is None:
                        sources, first = generation.lease, now
                    if piece := transcript.add(event.id, event.margin):
                        yield Delta(piece)
                    if transcript.stopped:
                        reason = "stop"
                        break
                elif isinstance(event, Failed):
                    self._failed(ENGINE, "generate", event.message)
                    failures += 1
                    if transcript.ids or failures > 1:
                        raise EngineError(f"the engine failed: {event.message}")
                    self.stats.retries += 1
                    generation, guessed, overlap = self._generation(), None, 0.0
                    await generation.start(task, deadline)
                elif isinstance(event, Preempted):
                    self.stats.preemptions += 1
                    generation = self._generation()
                    if not transcript.ids:
                        guessed, overlap = None, 0.0
                    if self._admission.running:  # memory is as full as it was until one of them leaves
                        await within(deadline, self._admission.next_leave())
                    await generation.start(task.resumed(transcript.ids), deadline)
                elif isinstance(event, Finished):
                    last, reason = max(last, now), event.reason
                    break
        finally:
            speculation.cancel()
            generation.cancel()
            self._account_for(speculation, used=guessed is not None)
        self._worked(ENGINE, "generate")
        if rest := transcript.finish():
            yield Delta(rest)
        sources = sources or generation.lease
        usage = Usage(
            prompt_tokens=len(prompt),
            completion_tokens=len(transcript.ids),
            computed_tokens=len(prompt) - sources.cached_tokens,
            cached_tokens=CachedTokens(*sources.cached_by_tier),
        )
        self._count(usage)
        yield Answer(
            id=request_id,
            answer=transcript.text,
            finish_reason=reason,
            documents=found.documents,
            usage=usage,
            timing=Timing(
                retrieval_ms=_milliseconds(retrieved - arrived),
                queue_ms=_milliseconds(started - retrieved),
                prefill_ms=_milliseconds(prefilled - started),
                ttft_ms=_milliseconds(first - arrived),
                total_ms=_milliseconds(last - arrived),
                search_overlap_ms=_milliseconds(overlap),
            ),
            speculation=Speculated(speculation.started, guessed is not None, speculation.wasted_tokens),
            token_ids=tuple(transcript.ids),
            margins=tuple(transcript.margins),
        )

    async def _find(
        self, question: str, top_k: int, max_tokens: int, sampling: Sampling, speculation: Speculation
    ) -> tuple[Found, GenerationTask]:
        """The documents of a question, and what is to be generated from them. What the search finds on its way is
        speculated on."""
        room, staged = self.engine.context_length - max_tokens, self.limits.speculate
        self._searching += 1
        try:
            async with contextlib.aclosing(
                self._watched(self.finder.find(question, top_k, room, staged=staged))
            ) as stages:
                async for found in stages:
                    # the last token generated is never read back, so it needs no KV
                    extra = len(found.prompt.question) + max_tokens - 1
                    task = GenerationTask(found.prompt, extra, max_tokens, sampling)
                    if found.done:
                        return found, task
                    speculation.show(task)
                    if speculation.running:
                        self._speculations[speculation] = None
        finally:
            self._searching -= 1
        raise AssertionError("a search has a last stage")

    def _generation(self, on_end: Callable[[], None] = lambda: None) -> Generation:
        def ended() -> None:
            on_end()
            self._left()

        return Generation(self.cache, self.engine, self._admission, ended)

    def _make_way(self) -> None:
        """A request cannot have its turn: the youngest speculation gives it its place and memory, at the next step."""
        for speculation in [each for each in self._speculations if not each.running and not each.ending]:
            del self._speculations[speculation]
        if not any(speculation.ending for speculation in self._speculations):
            for speculation in reversed(self._speculations):
                if speculation.running:
                    speculation.cancel()
                    return

    def _account_for(self, speculation: Speculation, *, used: bool) -> None:
        """The speculation's request has ended."""
        self._speculations.pop(speculation, None)
        self.stats.speculations += speculation.started
        self.stats.used_speculations += used
        if speculation.started:
            self._unsettled.append(speculation)
            self._settle()

    def _settle(self) -> None:
        """Counts what was computed for nothing, once that is known."""
        for speculation in [speculation for speculation in self._unsettled if not speculation.ending]:
            self._unsettled.remove(speculation)
            self.stats.wasted_tokens += speculation.wasted_tokens

    def _left(self) -> None:
        """An admitted request has released its lease."""
        self._settle()
        if self._audit is None:
            self._audit = asyncio.get_running_loop().create_task(self._audit_when_idle())

    async def _audit_when_idle(self) -> None:
        """Recounts the cache's books once nothing has happened for a while, giving way to whatever comes."""
        cache, stats, loop = self.cache, self.stats, asyncio.get_running_loop()
        try:
            while True:
                if (wait := self._next_audit - IDLE_SECONDS - loop.time()) > 0:
                    await asyncio.sleep(wait)
                activity = cache.activity
                await asyncio.sleep(IDLE_SECONDS)
                if activity != cache.activity or not cache.idle:
                    continue
                for _ in cache.audit():
                    await asyncio.sleep(0)
                    if activity != cache.activity:
                        break
                else:
                    stats.audits += 1
                    self._next_audit = loop.time() + AUDIT_SECONDS
                    return
        except IntegrityError as error:
            stats.failed_audits += 1
            log.critical("the cache's books do not balance, please report this: %s", error)
        finally:
            self._audit = None

    def _check(self, query: Query) -> tuple[int, int, Sampling]:
        """Defaults filled in and bounds checked: top_k, max_tokens, sampling."""
        self.finder.check(query.question)
        top_k = self.limits.top_k if query.top_k is None else query.top_k
        max_tokens = self.limits.max_tokens if query.max_tokens is None else query.max_tokens
        temperature = 0.0 if query.temperature is None else query.temperature
        top_p = 1.0 if query.top_p is None else query.top_p
        if query.top_k is None:
            top_k = min(top_k, self.corpus_size)  # the operator's default may exceed a tiny corpus
        if not 1 <= top_k <= self.corpus_size:
            raise BadQuery(
                f"top_k is {top_k}; the corpus has {self.corpus_size} documents", field="top_k", limit=self.corpus_size
            )
        limit = self.limits.max_tokens
        if not 1 <= max_tokens <= limit:
            raise BadQuery(f"max_tokens is {max_tokens}; it may be 1 to {limit}", field="max_tokens", limit=limit)
        if not (math.isfinite(temperature) and 0.0 <= temperature <= MAX_TEMPERATURE):
            raise BadQuery(f"temperature is {temperature}; it may be 0 to {MAX_TEMPERATURE}", field="temperature")
        if not 0.0 < top_p <= 1.0:
            raise BadQuery(f"top_p is {top_p}; it may be above 0 and up to 1", field="top_p")
        if query.seed is not None and not 0 <= query.seed < 2**63:
            raise BadQuery(f"seed is {query.seed}; it may be 0 to 2^63 - 1", field="seed")
        if len(query.stop) > MAX_STOPS or not all(1 <= len(text) <= MAX_STOP_CHARACTERS for text in query.stop):
            raise BadQuery(
                f"stop may be up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters", field="stop"
            )
        if query.timeout_ms is not None and query.timeout_ms < 1:
            raise BadQuery(f"timeout_ms is {query.timeout_ms}; it must be 1 or more", field="timeout_ms")
        # a seed of the answer's own, so that an answer that is interrupted can go on as it would have
        seed = secrets.randbits(63) if query.seed is None and temperature else query.seed
        return top_k, max_tokens, Sampling(temperature, seed, top_p)

    async def _watched(self, stages: AsyncGenerator[Found]) -> AsyncGenerator[Found, None]:
        """The stages of a search, of whose end the health is told, unless nobody wants to know it any more."""
        try:
            async with contextlib.aclosing(stages):
                async for found in stages:
                    if found.done:
                        self._worked(SEARCH, "search")
                    yield found
        except RagCacheError:  # the question's fault
            self._worked(SEARCH, "search")
            raise
        except Exception as error:
            self._failed(SEARCH, "search", str(error))
            raise

    def _moved(self, what: str, tier: str, error: Exception | None) -> None:
        if error is None:
            self._worked(tier, what)
        elif reason_of(error) != "overflow":  # of numbers that the stored dtype cannot hold: the tier is well
            self._failed(tier, what, f"{what}: {error}")

    def _failed(self, component: str, activity: str, message: str) -> None:
        if self._health.failed(component, activity, message, asyncio.get_running_loop().time()):
            log.error("trouble with the %s: %s", component, message)

    def _worked(self, component: str, activity: str) -> None:
        if self._health.worked(component, activity):
            log.warning("the %s works again", component)

    def _free_places(self) -> int:
        return max(0, self.limits.max_batch - self._admission.running)

    def _count(self, usage: Usage) -> None:
        self.stats.computed_tokens += usage.computed_tokens
        for tier, tokens in dataclasses.asdict(usage.cached_tokens).items():
            self.stats.cached_tokens[tier] += tokens
        self.stats.completion_tokens += usage.completion_tokens


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
