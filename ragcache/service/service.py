"""RagService: questions in, answers out, over a finder, a cache and an engine."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Collection

from ragcache.cache.contract import CacheContract
from ragcache.cache.lease import Lease
from ragcache.engine.protocol import Engine, Failed, Preempted
from ragcache.errors import BadQuery, ConfigError, DeadlineExceeded, Overloaded, RagCacheError, reason_of
from ragcache.prompt.detokenizer import Detokenizer
from ragcache.schedule.admission import AdmissionQueue
from ragcache.schedule.generation import Generation, GenerationTask, within
from ragcache.schedule.order import Order
from ragcache.schedule.speculation import Speculation
from ragcache.service.answer import Answer, Delta, Query, ServiceEvent, Speculated, UsedDocument
from ragcache.service.answering import Answering, Times
from ragcache.service.arranger import Arranger
from ragcache.service.aside import aside
from ragcache.service.audit import IdleAudit
from ragcache.service.finder import Finder, ReopenableFinder, Stage
from ragcache.service.finder_in_use import FinderInUse
from ragcache.service.health import ENGINE, INDEX, SEARCH, Health
from ragcache.service.limits import Limits
from ragcache.service.request import Request
from ragcache.service.stats import ServiceStats
from retrieval.errors import IndexDamaged

CLEARING_SECONDS = 2.0  # for moves that are under way

log = logging.getLogger(__name__)


class RagService:
    """Answers questions from the finder's documents, reusing the KV that the knowledge cache holds.

    Belongs to one event loop. Every request ends in one Answer or one error, and returns all that it held either way.
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
        """Serves with these parts, which the service closes with itself.

        `finder` searches documents and builds prompts, `cache` holds their KV, `engine` computes. `limits` bound the
        batch, the queue, the answers and the speculation. `model_name` is what clients see, the model's name.
        """
        self.model_name = model_name
        self.cache = cache
        self.engine = engine
        self.limits = limits
        self.stats = ServiceStats()
        self._finders = FinderInUse(finder, self._close_aside)
        order = Order(cache.cached_paths, limits.reorder_window)
        self._admission = AdmissionQueue(limits.max_batch, order, on_blocked=self._make_way)
        self._arranger = Arranger(cache)
        self._searches = 0
        # oldest first: those that run or are ending, and some that have ended since
        self._speculations: dict[Speculation, None] = {}
        self._unsettled: list[Speculation] = []  # cancelled but not stopped yet, though their requests have ended
        self._audit = IdleAudit(cache, self.stats)
        cache.on_room(self._admission.advance)
        self._health = Health([ENGINE, SEARCH, INDEX, *cache.lower_names])
        cache.on_moved(self._moved)

    @property
    def finder(self) -> Finder:
        """What new requests search with. `reload` replaces it."""
        return self._finders.current

    @property
    def corpus_size(self) -> int:
        """Number of documents that answers are drawn from."""
        return self.finder.corpus_size

    @property
    def waiting(self) -> int:
        """Number of requests that search or wait for their turn."""
        return self._searches + len(self._admission)

    @property
    def running(self) -> int:
        """Number of requests that have had their turn and have not ended, speculations included.

        They have a slot of the batch, or take one when KV has come that another request computes.
        """
        return self._admission.running

    @property
    def health(self) -> Health:
        """Which parts work, as of now. Its times are those of the running loop."""
        self.cache.refresh()
        stats, time = self.engine.stats(), asyncio.get_running_loop().time()
        self._take_index_state(time)
        if stats.alive and self._health.state == "ok":
            return self._health
        error = stats.error or "it was closed"
        if stats.alive:
            self._health.regained(ENGINE, time)
        elif self._health.lost(ENGINE, error, time):
            log.critical("the engine takes no more jobs, restart the server: %s", error)
        for component in self._health.refresh(time):
            _log_recovery(component)
        return self._health

    def _take_index_state(self, time: float) -> None:
        state, why = self.finder.index_state
        if state == "failed":
            self._health.lost(INDEX, why, time)
            return
        self._health.regained(INDEX, time)  # another index has taken its place
        if state == "degraded":
            self._health.unsure(INDEX, "check", why, time)
        else:
            self._health.worked(INDEX, "check", time)

    async def ask(self, query: Query) -> AsyncGenerator[ServiceEvent, None]:
        """Yields Retrieved, then Delta…, then Answer.

        Raises BadQuery for a query out of bounds, Overloaded when too many requests wait, DeadlineExceeded when the
        query's time is over, EngineError when the engine failed: twice, if it failed before the first token.
        Closing the iterator cancels the request.
        """
        answered = False
        try:
            with self._finders.using() as finder:
                async with contextlib.aclosing(self._answer(query, finder)) as events:
                    async for event in events:
                        if isinstance(event, Answer):  # counted now: a caller that has the answer need not iterate on
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
        """Drops all KV that no running request holds, on all tiers. Returns the number of nodes and bytes dropped.

        Waits for moves under way, which hold what they move, but no longer than CLEARING_SECONDS.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + CLEARING_SECONDS
        nodes, size = self.cache.drop_unheld()
        while self.cache.moving and loop.time() < end:
            await asyncio.sleep(0.005)
            more_nodes, more = self.cache.drop_unheld()
            nodes, size = nodes + more_nodes, size + more
        return nodes, size

    async def reload(self) -> None:
        """Opens the index anew beside the one in use, and lets it take that one's place between two requests.

        That is once every file of the new one is checked, however large. Requests that run go on with the old one,
        which is closed after them. KV stays: it belongs to documents' tokens, not to their index. Where the index
        cannot be opened or is damaged the old one stays, one line of the log says why, and the search counts as
        degraded until a reload succeeds.
        """
        begin = asyncio.get_running_loop().time()
        unwanted = threading.Event()
        try:
            if not isinstance(self.finder, ReopenableFinder):
                raise ConfigError(f"a {type(self.finder).__name__} has no index to open anew")
            reopened = functools.partial(self.finder.reopened, unwanted.is_set)
            finder = await aside(reopened, lambda late: late.close())
        except Exception as error:
            self.stats.failed_reloads += 1
            message = f"the index was not reloaded, and the one before stays in use: {error}"
            self._health.failed(SEARCH, "reload", message, asyncio.get_running_loop().time())
            log.error(message)  # each time: somebody waits for it
            return
        finally:
            unwanted.set()  # where the server stops, the check does, too
        self._finders.replace(finder)
        self.stats.reloads += 1
        self._worked(SEARCH, "reload")
        seconds = asyncio.get_running_loop().time() - begin
        log.info("the index was reloaded in %.1f s: %d documents", seconds, finder.corpus_size)

    async def finish_writing(self, seconds: float) -> None:
        """Waits for cancelled requests to leave the engine, and for all moves and writes to disk, at most this long.

        Call when every request has ended or been cancelled.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if self.cache.unwritten:
            log.warning("writing the KV of %d segments to disk ...", self.cache.unwritten)
        while (self.running or self.cache.unwritten or self.cache.moving) and loop.time() < end:
            await asyncio.sleep(0.02)
        if self.cache.unwritten:
            log.warning("the KV of %d segments is not on disk: the time for it is over", self.cache.unwritten)

    def close(self) -> None:
        """Ends the engine, the search and the cache's moves; requests still running fail."""
        self.engine.close()
        self.finder.close()
        self.cache.close()

    async def _answer(self, query: Query, finder: Finder) -> AsyncGenerator[ServiceEvent, None]:
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        request = Request.of(query, self.limits, finder.corpus_size)
        finder.check(request.question)
        deadline = None if request.seconds is None else arrived + request.seconds
        waiting = self.waiting + self._admission.following
        if waiting >= self.limits.max_waiting + self._admission.free_slots:
            raise Overloaded(f"{waiting} requests wait already, the limit is {self.limits.max_waiting}")
        speculation = Speculation(self._generation, lambda: self._admission.pool, self.limits.max_prefill_batch)
        answering: Answering | None = None
        try:
            documents, task = await within(deadline, self._find(request, finder, speculation))
            times = Times(arrived, retrieved=loop.time())
            self._refuse_what_never_fits(task)
            detokenizer = Detokenizer(finder.tokenizer, request.stop)
            answering = Answering(task, documents, detokenizer, times, self._generation)
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
        self.stats.count(answer.usage, answering.shared_tokens)
        yield answer

    async def _find(
        self, request: Request, finder: Finder, speculation: Speculation
    ) -> tuple[tuple[UsedDocument, ...], GenerationTask]:
        """The documents of a question, and what is to be generated from them.

        Documents that the search takes for the best before it ends are speculated on.
        """
        room, staged = self.engine.context_length - request.max_tokens, self.limits.speculate
        arranging = self._arranger.arranging(request)
        self._searches += 1
        try:
            async with contextlib.aclosing(
                self._watched(finder.find(request.question, request.top_k, room, staged=staged))
            ) as stages:
                async for stage in stages:
                    # the last token generated is never read back, so it needs no KV
                    extra = len(stage.prompt.question) + request.max_tokens - 1
                    prompt = arranging.arranged(stage.prompt, final=stage.done)
                    task = GenerationTask(prompt, extra, request.max_tokens, request.sampling, namespace=request.tenant)
                    if stage.done:
                        return stage.documents, task
                    speculation.show(task)
                    if speculation.running:
                        self._speculations[speculation] = None
        finally:
            self._searches -= 1
        raise AssertionError("the finder ended without a last stage")

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
        """Starts the first attempt: a speculation that runs for the task already, or one that waits for its turn."""
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

    def _make_way(self, leaders: Collection[Lease]) -> None:
        """Cancels the youngest speculation, since it is a request's turn but no slot or memory is free.

        What it held comes free at the engine's next step; until then no other is cancelled. One that computes what a
        request waits for, or the one whose turn it is would (as of the `leaders`), goes on until that is there: such a
        request would have to begin anew, and none would be sooner.
        """
        for speculation in [each for each in self._speculations if not each.running and not each.ending]:
            del self._speculations[speculation]
        if not any(speculation.ending for speculation in self._speculations):
            for speculation in reversed(self._speculations):
                if speculation.running and not speculation.is_needed(leaders):
                    speculation.cancel()
                    return

    def _account_for(self, speculation: Speculation, *, used: bool) -> None:
        """Counts a speculation whose request has ended. `used`: its generation became the answer."""
        self._speculations.pop(speculation, None)
        self.stats.speculations += speculation.started
        self.stats.used_speculations += used
        if speculation.started:
            self._unsettled.append(speculation)
            self._settle()

    def _settle(self) -> None:
        """Counts tokens that were computed in vain, of speculations that have stopped since."""
        for speculation in [each for each in self._unsettled if not each.ending]:
            self._unsettled.remove(speculation)
            self.stats.wasted_tokens += speculation.wasted_tokens

    def _left(self) -> None:
        """An admitted request has released its lease."""
        self._settle()
        self._audit.wake()

    async def _watched(self, stages: AsyncGenerator[Stage]) -> AsyncGenerator[Stage, None]:
        """The stages of a search, whose success or failure goes to the health unless the request is cancelled."""
        try:
            async with contextlib.aclosing(stages):
                async for stage in stages:
                    if stage.done:
                        self._worked(SEARCH, "search")
                    yield stage
        except RagCacheError:  # the query is wrong, not the search
            self._worked(SEARCH, "search")
            raise
        except IndexDamaged:  # the index reports it, and says so until there is another
            raise
        except Exception as error:
            self._failed(SEARCH, "search", str(error))
            raise

    def _moved(self, what: str, tier: str, error: Exception | None) -> None:
        if error is None:
            self._worked(tier, what)
        elif reason_of(error) != "overflow":  # this KV has numbers that the stored dtype cannot hold: the tier is well
            self._failed(tier, what, f"{what}: {error}")

    def _failed(self, component: str, activity: str, message: str) -> None:
        if self._health.failed(component, activity, message, asyncio.get_running_loop().time()):
            log.error("trouble with the %s: %s", component, message)

    def _worked(self, component: str, activity: str) -> None:
        if self._health.worked(component, activity, asyncio.get_running_loop().time()):
            _log_recovery(component)

    def _close_aside(self, finder: Finder) -> None:
        """Closes a finder that was replaced on a thread that nothing waits for: a search of a cancelled request may go
        on in it."""
        threading.Thread(target=finder.close, name="close", daemon=True).start()


def _log_recovery(component: str) -> None:
    log.warning("the %s works again", component)
