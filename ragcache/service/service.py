"""RagService: questions in, answers out, over a finder, a cache and an engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable

from ragcache.cache.contract import CacheContract
from ragcache.engine.protocol import Engine, Failed, Preempted
from ragcache.errors import BadQuery, DeadlineExceeded, Overloaded, RagCacheError, reason_of
from ragcache.prompt.transcript import Transcript
from ragcache.schedule.admission import AdmissionQueue
from ragcache.schedule.generation import Generation, GenerationTask, within
from ragcache.schedule.order import Order
from ragcache.schedule.speculation import Speculation
from ragcache.service.answer import Answer, Delta, Query, ServiceEvent, Speculated
from ragcache.service.answering import Answering, Times
from ragcache.service.audit import IdleAudit
from ragcache.service.finder import Finder, Found
from ragcache.service.health import ENGINE, SEARCH, Health
from ragcache.service.limits import Limits
from ragcache.service.request import Request
from ragcache.service.stats import ServiceStats

CLEARING_SECONDS = 2.0  # for moves that are under way

log = logging.getLogger(__name__)


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
        order = Order(cache.cached_paths, limits.reorder_window)
        self._admission = AdmissionQueue(limits.max_batch, order, on_blocked=self._make_way)
        self._searching = 0
        self._speculations: dict[Speculation, None] = {}  # that run or end, oldest first, and some more
        self._unsettled: list[Speculation] = []  # of requests that have ended, cancelled but not stopped yet
        self._audit = IdleAudit(cache, self.stats)
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
        self.finder.check(query.question)
        request = Request.of(query, self.limits, self.corpus_size)
        deadline = None if request.seconds is None else arrived + request.seconds
        if self.waiting >= self.limits.max_waiting + self._free_slots():
            raise Overloaded(f"{self.waiting} requests wait already, the limit is {self.limits.max_waiting}")
        speculation = Speculation(self._generation, lambda: self._admission.pool, self.limits.max_prefill_batch)
        answering: Answering | None = None
        try:
            found, task = await within(deadline, self._find(request, speculation))
            times = Times(arrived, retrieved=loop.time())
            self._refuse_what_never_fits(task)
            transcript = Transcript(self.finder.tokenizer, request.stop)
            answering = Answering(task, found.documents, transcript, times, self._generation)
            await self._begin(answering, speculation, deadline)
            yield answering.retrieved
            while not answering.ended:
                if text := await self._advance(answering, deadline):
                    yield Delta(text)
        finally:
            speculation.cancel()
            if answering is not None:
                answering.attempt.generation.cancel()
            self._account_for(speculation, used=answering is not None and answering.attempt.guess)
        self._worked(ENGINE, "generate")
        if text := answering.finish():
            yield Delta(text)
        answer = answering.answer(Speculated(speculation.started, answering.attempt.guess, speculation.wasted_tokens))
        self.stats.count(answer.usage)
        yield answer

    async def _find(self, request: Request, speculation: Speculation) -> tuple[Found, GenerationTask]:
        """The documents of a question, and what is to be generated from them.

        Documents that the search takes for the best before it ends are speculated on.
        """
        room, staged = self.engine.context_length - request.max_tokens, self.limits.speculate
        self._searching += 1
        try:
            async with contextlib.aclosing(
                self._watched(self.finder.find(request.question, request.top_k, room, staged=staged))
            ) as stages:
                async for found in stages:
                    # the last token generated is never read back, so it needs no KV
                    extra = len(found.prompt.question) + request.max_tokens - 1
                    task = GenerationTask(
                        found.prompt, extra, request.max_tokens, request.sampling, namespace=request.tenant
                    )
                    if found.done:
                        return found, task
                    speculation.show(task)
                    if speculation.running:
                        self._speculations[speculation] = None
        finally:
            self._searching -= 1
        raise AssertionError("a search has a last stage")

    def _refuse_what_never_fits(self, task: GenerationTask) -> None:
        """Raises BadQuery for a prompt and answer whose KV exceeds the whole device cache."""
        if not self.cache.can_ever_lease(task.prompt.path, task.extra):
            raise BadQuery(
                f"the prompt and {task.max_tokens} more tokens need "
                f"{self.cache.bytes_of(len(task.prompt) + task.max_tokens) >> 20} MiB of KV, the device cache has "
                f"{self.cache.capacity >> 20} MiB; ask for a smaller top_k",
                field="top_k",
                limit=self.cache.capacity,
            )

    async def _begin(self, answering: Answering, speculation: Speculation, deadline: float | None) -> None:
        """The first attempt: the speculation that runs for the task already, else one that waits for its turn."""
        guess = await within(deadline, speculation.settle(answering.task))
        if guess is not None:
            answering.adopt(guess)
        else:
            await answering.attempt.generation.start(answering.task, deadline)

    async def _advance(self, answering: Answering, deadline: float | None) -> str:
        """Waits for one event of the engine and does what follows from it. Returns the text that it adds."""
        time, event = await answering.attempt.generation.next(deadline)
        if isinstance(event, Failed):
            self._failed(ENGINE, "generate", event.message)
        after = answering.take(time, event)
        if after.start is not None:
            self.stats.retries += isinstance(event, Failed)
            self.stats.preemptions += isinstance(event, Preempted)
            if after.when_left and self._admission.running:
                await within(deadline, self._admission.next_leave())
            await answering.attempt.generation.start(after.start, deadline)
        return after.text

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
        self._audit.wake()

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

    def _free_slots(self) -> int:
        return max(0, self.limits.max_batch - self._admission.running)
