"""RagService: one request's life, from the question to its last token."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import uuid
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from ragcache.admission import AdmissionQueue
from ragcache.answer import Answer, CachedTokens, Delta, Query, Retrieved, ServiceEvent, Timing, Usage
from ragcache.cache import IntegrityError, KnowledgeCache
from ragcache.engine.protocol import (
    Engine,
    Failed,
    Prefilled,
    Sampling,
    Started,
    Token,
)
from ragcache.errors import BadQuery, DeadlineExceeded, EngineError, Overloaded, RagCacheError
from ragcache.finder import Finder, Found
from ragcache.generation import Generation, GenerationTask, within
from ragcache.health import ENGINE, SEARCH, Health
from ragcache.hierarchy import reason_of
from ragcache.order import Order
from ragcache.tier import Tier
from ragcache.transcript import Transcript

MAX_TEMPERATURE = 5.0
CLEARING_SECONDS = 2.0  # for moves that are under way
IDLE_SECONDS = 1.0  # without a request or a move, before the books are recounted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the service accepts, and what a question gets that does not say."""

    top_k: int
    max_tokens: int
    max_batch: int = 8
    max_waiting: int = 64
    reorder_window: int = 0


@dataclass(slots=True)
class ServiceStats:
    """Totals since the start; `outcomes` counts requests by how they ended, `cached_tokens` prompt tokens by tier.

    `audits` counts how often the cache's books were recounted when idle, and `failed_audits` when they were wrong.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    computed_tokens: int = 0
    cached_tokens: Counter[str] = field(default_factory=Counter)
    completion_tokens: int = 0
    retries: int = 0
    audits: int = 0
    failed_audits: int = 0


class RagService:
    """Answers questions from the finder's documents, reusing the KV that the knowledge cache holds.

    Belongs to one event loop. Every request ends in one Answer or one error, and what it held comes back either way.
    """

    def __init__(
        self,
        finder: Finder,
        cache: KnowledgeCache,
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
        self._admission = AdmissionQueue(limits.max_batch, Order(cache.tree, limits.reorder_window))
        self._retrieving = 0
        self._audit: asyncio.Task[None] | None = None
        cache.on_room(self._admission.advance)
        self._health = Health([ENGINE, SEARCH, *(tier.name for tier in cache.hierarchy.lower)])
        cache.hierarchy.on_moved = self._moved

    @property
    def corpus_size(self) -> int:
        return self.finder.corpus_size

    @property
    def waiting(self) -> int:
        """Requests that the engine has not taken yet."""
        return self._retrieving + len(self._admission)

    @property
    def running(self) -> int:
        """Requests that the engine works on."""
        return self._admission.running

    @property
    def health(self) -> Health:
        """Which parts work; see `Health`. Its times are of the running loop."""
        stats = self.engine.stats()
        error = getattr(stats, "error", None) or "it has ended"
        if getattr(stats, "alive", True):
            self._health.found(ENGINE)
        elif self._health.lost(ENGINE, error, asyncio.get_running_loop().time()):
            log.critical("the engine is dead, no question can be answered: %s", error)
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
        while self.cache.hierarchy.moving and loop.time() < end:
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
        while (self.cache.unwritten or self.cache.hierarchy.moving) and loop.time() < end:
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
        self._retrieving += 1
        try:
            found = await within(deadline, self._find(query.question, top_k, self.engine.context_length - max_tokens))
        finally:
            self._retrieving -= 1
        retrieved = loop.time()
        request_id = f"rag-{uuid.uuid4().hex[:16]}"
        documents, prompt = found.documents, found.prompt
        # the last token generated is never read back, so it needs no KV
        extra = len(prompt.question) + max_tokens - 1
        if not self.cache.can_ever_lease(prompt.path, extra):
            raise BadQuery(
                f"the prompt and {max_tokens} more tokens need {self.cache.bytes_of(len(prompt) + max_tokens) >> 20} "
                f"MiB of KV, the device cache has {self.cache.capacity >> 20} MiB; ask for a smaller top_k",
                field="top_k",
                limit=self.cache.capacity,
            )
        generation = Generation(self.cache, self.engine, self._admission, self._leave)
        task = GenerationTask(prompt, extra, max_tokens, sampling)
        try:
            await generation.start(task, deadline)
            yield Retrieved(request_id, documents)
            started = prefilled = first = last = retrieved
            transcript = Transcript(self.finder.tokenizer)
            while True:
                now, event = await generation.next(deadline)
                if isinstance(event, Started):
                    started = prefilled = first = last = now
                elif isinstance(event, Prefilled):
                    prefilled = first = last = now
                elif isinstance(event, Token):
                    last = now
                    first = first if transcript.ids else now
                    if piece := transcript.add(event.id, event.margin):
                        yield Delta(piece)
                elif isinstance(event, Failed):
                    self._failed(ENGINE, "generate", event.message)
                    if transcript.ids or generation.attempts > 1:
                        raise EngineError(f"the engine failed: {event.message}")
                    self.stats.retries += 1
                    await generation.start(task, deadline)
                else:
                    last = max(last, now)
                    self._worked(ENGINE, "generate")
                    break
        finally:
            generation.cancel()
        if rest := transcript.finish():
            yield Delta(rest)
        usage = Usage(
            prompt_tokens=len(prompt),
            completion_tokens=len(transcript.ids),
            computed_tokens=len(prompt) - generation.lease.cached_tokens,
            cached_tokens=CachedTokens(*generation.lease.cached_by_tier),
        )
        self._count(usage)
        yield Answer(
            id=request_id,
            answer=transcript.text,
            finish_reason=event.reason,
            documents=documents,
            usage=usage,
            timing=Timing(
                retrieval_ms=_milliseconds(retrieved - arrived),
                queue_ms=_milliseconds(started - retrieved),
                prefill_ms=_milliseconds(prefilled - started),
                ttft_ms=_milliseconds(first - arrived),
                total_ms=_milliseconds(last - arrived),
            ),
            token_ids=tuple(transcript.ids),
            margins=tuple(transcript.margins),
        )

    def _leave(self) -> None:
        """An admitted request has released its lease."""
        self._admission.leave()
        if self._audit is None:
            self._audit = asyncio.get_running_loop().create_task(self._audit_when_idle())

    async def _audit_when_idle(self) -> None:
        """Recounts the cache's books once nothing has happened for a while, giving way to whatever comes."""
        cache, stats = self.cache, self.stats
        try:
            while True:
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
        if query.timeout_ms is not None and query.timeout_ms < 1:
            raise BadQuery(f"timeout_ms is {query.timeout_ms}; it must be 1 or more", field="timeout_ms")
        return top_k, max_tokens, Sampling(temperature)

    async def _find(self, question: str, top_k: int, room: int) -> Found:
        async with contextlib.aclosing(self._watched(self.finder.find(question, top_k, room, staged=False))) as stages:
            async for found in stages:
                if found.done:
                    return found
        raise AssertionError("a search has a last stage")

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

    def _moved(self, what: str, tier: Tier, error: Exception | None) -> None:
        if error is None:
            self._worked(tier.name, what)
        elif reason_of(error) != "overflow":  # of numbers that the stored dtype cannot hold: the tier is well
            self._failed(tier.name, what, f"{what}: {error}")

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
