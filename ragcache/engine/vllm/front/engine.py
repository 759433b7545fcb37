"""VllmEngine: vLLM behind the engine protocol.

vLLM owns all KV: what it has itself, it finds by its blocks' hashes, and what lies outside, the connector brings. So
the memory that jobs name is a name and no more, and where a prompt's KV came from is what the connector reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from ragcache.engine.protocol import (
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    Job,
    LastEvent,
    Prefilled,
    Started,
    Token,
)
from ragcache.engine.vllm import interface
from ragcache.engine.vllm.front.bulletin_listener import BulletinListener
from ragcache.engine.vllm.front.loop_thread import LoopThread
from ragcache.engine.vllm.front.vllm_kv import VllmKV
from ragcache.engine.vllm.front.vllm_request import VllmRequest, eos_tokens, margin_of
from ragcache.engine.vllm.wire.bulletin import Bulletin, Ended, Work
from ragcache.engine.vllm.worker.draws import DRAWS
from ragcache.errors import EngineError, ModelError
from ragcache.reuse.plan import prefix_and_rest

log = logging.getLogger(__name__)

interface.require(AsyncLLM, interface.ENGINE, vllm.__version__)
Deliver = Callable[[EngineEvent], None]
SHUT_DOWN = "the engine was shut down"
CLOSING_SECONDS = 10.0
STOPPING_SECONDS = 10.0  # for vLLM to stop a job: a step, usually
RETRY_SECONDS = 0.05  # between two tries to abort or to clear
CLEARING_SECONDS = 2.0  # for vLLM to have freed what the last request used: a step, usually
NULL_BLOCKS = 1  # blocks of the pool that vLLM takes for itself


@dataclass(slots=True, eq=False)
class _Running:
    """A job in the loop. `sources` are its prompt's cached tokens by tier; `end` resolves to the connector's report
    of how its request ended."""

    job: Job
    deliver: Deliver
    cancelled: threading.Event
    end: asyncio.Future[Ended]
    sources: dict[str, int] = field(default_factory=dict)
    task: asyncio.Task[LastEvent] | None = None
    stopping: asyncio.Task[None] | None = None


class VllmEngine:
    """One vLLM engine, which may span devices and nodes, and an event loop for it in a thread of its own.

    A job counts as started once vLLM has it: the caller submits no more jobs at a time than vLLM runs at a time.
    vLLM computes in the order of submission, with one exception: a guess is passed by up to as many later jobs as run
    at a time. When blocks run out, the last job in that order gives its own up, and later goes on drawing as it would
    have; it is never `Preempted`. On a GPU vLLM draws itself, and an answer that is split into jobs draws anew.
    """

    def __init__(self, arguments: AsyncEngineArgs) -> None:
        """Starts vLLM, which takes from ten seconds to minutes. ModelError if it does not start."""
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._jobs = 0
        self._work: dict[int, Work] = {}  # by engine core
        self._bulletins: list[tuple[int, Bulletin]] = []
        self._closed = False
        self._error: str | None = None
        self._running: dict[str, _Running] = {}  # the loop's, as is what follows
        self._clearing: asyncio.Task[None] | None = None
        self._thread = LoopThread("vllm-engine")
        self._loop = self._thread.loop
        try:
            self._llm = self._thread.result_of(self._start(arguments))
        except BaseException as error:
            self._thread.end()
            if not isinstance(error, Exception):
                raise
            raise ModelError(f"vLLM does not start: {error}") from error
        config = self._llm.vllm_config
        model, cache = config.model_config, config.cache_config
        parallel = config.parallel_config
        self._context_length = int(model.max_model_len)
        # of all workers together
        layers = model.get_num_layers(parallel) * parallel.pipeline_parallel_size
        heads = model.get_total_num_kv_heads()
        self._bytes_per_token = 2 * layers * heads * model.get_head_size() * model.dtype.itemsize
        self.block_tokens = int(cache.block_size)
        self.capacity_tokens = (int(cache.num_gpu_blocks) - NULL_BLOCKS) * self.block_tokens
        self._passed_by = int(config.scheduler_config.max_num_seqs)
        self._draws = DRAWS in (model.logits_processors or ())
        self._eos = eos_tokens(model)

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def bytes_per_token(self) -> int:
        return self._bytes_per_token

    def allocate(self, tokens: int) -> VllmKV:
        """A name for KV of `tokens`. Takes no memory: the ledger in front accounts for it, vLLM allocates it."""
        return VllmKV(tokens)

    def submit(self, job: Job, deliver: Deliver) -> Callable[[], None]:
        exact, _ = prefix_and_rest(job.plan)
        if not job.question or job.max_tokens < 1 or exact:
            raise ValueError("a job for vLLM needs a question, max_tokens >= 1, and all of its prompt's tokens")
        cancelled = threading.Event()

        def start() -> None:
            running = self._running[name] = _Running(job, deliver, cancelled, self._loop.create_future())
            running.task = self._loop.create_task(self._generate(number, name, running))
            running.task.add_done_callback(lambda task: self._deliver_last(name, task))

        def stop() -> None:
            running = self._running.get(name)
            if running is not None and running.stopping is None:
                running.stopping = self._loop.create_task(self._abort(name, running))

        def cancel() -> None:
            cancelled.set()
            with self._lock:
                if not self._closed:
                    self._thread.call(stop)

        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if self._error is not None:
                raise EngineError(f"the engine takes no more jobs, restart the server: {self._error}")
            number = next(self._numbers)
            name = f"ragcache-{number}"
            self._jobs += 1
            self._thread.call(start)
        return cancel

    def clear(self) -> None:
        """Starts to give up what no request is using: vLLM's prefix cache, and what lies outside of it.

        Jobs that are submitted later wait for it. A bulletin of each core says when it is done.
        """

        def start() -> None:
            self._clearing = self._loop.create_task(self._clear(idle=not self._running))

        with self._lock:
            if not self._closed:
                self._thread.call(start)

    def take_bulletins(self) -> list[tuple[int, Bulletin]]:
        """The connector's bulletins since the last call, oldest first, each with the number of its engine core."""
        with self._lock:
            bulletins, self._bulletins = self._bulletins, []
        return bulletins

    def stats(self) -> EngineStats:
        """Steps, their times and tokens are those of vLLM's cores, as of the last step that has ended."""
        with self._lock:
            works = list(self._work.values())
            return EngineStats(
                running=self._jobs,
                steps=sum(work.steps for work in works),
                step_seconds=sum(work.seconds for work in works),
                prefill_tokens=sum(work.prefill_tokens for work in works),
                decode_tokens=sum(work.decode_tokens for work in works),
                preemptions=sum(work.preemptions for work in works),
                error=self._error,
                alive=not self._closed and self._error is None,
            )

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._thread.result_of(self._stop())
        self._llm.shutdown(timeout=CLOSING_SECONDS)
        self._thread.end()

    # -- in the loop's thread

    async def _start(self, arguments: AsyncEngineArgs) -> AsyncLLM:
        def listener(config: Any, core: int) -> StatLoggerBase:
            return BulletinListener(config, core, self._take_in)

        llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[listener])
        await llm.get_supported_tasks()  # it remembers: from now on a request is taken in without waiting
        return llm

    async def _stop(self) -> None:
        """Fails the jobs that run."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _clear(self, *, idle: bool) -> None:
        """vLLM frees some blocks of a request a step after its end, and clears nothing of its own until then."""
        latest = self._loop.time() + CLEARING_SECONDS
        with contextlib.suppress(EngineDeadError):  # which the jobs report
            while idle and not await self._llm.reset_prefix_cache() and self._loop.time() < latest:
                await asyncio.sleep(RETRY_SECONDS)
            await self._llm.reset_prefix_cache(reset_connector=True)

    async def _abort(self, name: str, running: _Running) -> None:
        """Has vLLM stop a request, which takes effect at its next step."""
        with contextlib.suppress(EngineDeadError):  # which the job reports
            while name in self._running and not running.end.done():
                await self._llm.abort(name)
                await asyncio.sleep(RETRY_SECONDS)

    def _take_in(self, core: int, bulletin: Bulletin) -> None:
        """Keeps a bulletin for `take_bulletins`, and hands running jobs what concerns them."""
        with self._lock:
            self._bulletins.append((core, bulletin))
            if bulletin.work is not None:
                self._work[core] = bulletin.work
        for name, sources in bulletin.sources.items():
            if (running := self._running.get(name)) is not None:
                running.sources = sources
        for name, ended in bulletin.ended.items():
            if (running := self._running.get(name)) is not None and not running.end.done():
                running.sources = ended.sources
                running.end.set_result(ended)

    def _deliver_last(self, name: str, task: asyncio.Task[LastEvent]) -> None:
        """Delivers a job's last event, however its task ended."""
        running = self._running.pop(name)
        with self._lock:
            self._jobs -= 1
        running.deliver(Failed(SHUT_DOWN) if task.cancelled() else task.result())

    async def _generate(self, number: int, name: str, running: _Running) -> LastEvent:
        """Runs a job and delivers its events; returns the last one, undelivered."""
        if self._clearing is not None:
            await asyncio.wait([self._clearing])
        if running.cancelled.is_set():
            return Finished("cancelled", kept_tokens=0)
        running.deliver(Started())
        try:
            return await self._answer(number, name, running)
        except EngineDeadError as error:
            with self._lock:
                self._error = str(error) or "vLLM's engine died; its log says why"
            return Failed(self._error)
        except Exception as error:  # whatever vLLM raises ends this job alone
            log.exception("vLLM failed at a job")
            return Failed(f"{type(error).__name__}: {error}")

    async def _answer(self, number: int, name: str, running: _Running) -> LastEvent:
        job, deliver = running.job, running.deliver
        request = VllmRequest.of(job, number, name, passed_by=self._passed_by, draws=self._draws)
        prompt = tokens_input(request.prompt, cache_salt=request.salt)
        outputs = self._llm.generate(prompt, request.sampling, name, priority=request.priority)
        prefilled = False
        async for output in outputs:
            completion = output.outputs[0]
            if completion.finish_reason == "abort" and running.cancelled.is_set():
                ended = await self._end_of(name, running)
                return Finished("cancelled", ended.computed, ended.kept)
            ids = list(completion.token_ids)
            if ids and not prefilled:
                prefilled = True
                for kv in job.targets:
                    kv.sources = tuple(running.sources.get(tier, 0) for tier in ("device", "host", "disk"))
                deliver(Prefilled(len(request.prompt)))
            logprobs = completion.logprobs or [{}] * len(ids)
            for token, candidates in zip(ids, logprobs, strict=True):
                if token in self._eos and completion.finish_reason == "stop":
                    break
                deliver(Token(token, margin_of(candidates)))
            if output.finished:
                if completion.finish_reason not in ("stop", "length"):
                    raise EngineError(f"vLLM ended a job with {completion.finish_reason!r}")
                ended = await self._end_of(name, running)
                return Finished(completion.finish_reason, ended.computed, ended.kept)
        raise EngineError("vLLM ended a job without an answer")

    async def _end_of(self, name: str, running: _Running) -> Ended:
        """What the connector says of a request's end; by then vLLM has freed what it held."""
        try:
            return await asyncio.wait_for(running.end, STOPPING_SECONDS)
        except TimeoutError:
            log.warning("the connector has not reported the end of %s for %g s", name, STOPPING_SECONDS)
            return Ended(0, 0, {})
