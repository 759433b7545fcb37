"""VllmEngine: vLLM behind the engine protocol.

vLLM owns all KV: what it has itself, it finds by its blocks' hashes, and what lies outside, the connector brings. So
the memory that is handed about here is only a name for it, and where a prompt's KV came from is told by the connector.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams
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
from ragcache.engine.vllm.wire.bulletin import BULLETIN, NAME_PARAM, Bulletin, Ended, Work
from ragcache.engine.vllm.wire.passages import SEGMENTS_PARAM
from ragcache.engine.vllm.worker.draws import DRAW_PARAM, DRAWS
from ragcache.errors import EngineError, ModelError
from ragcache.reuse.plan import prefix_and_rest

log = logging.getLogger(__name__)

interface.require(AsyncLLM, interface.ENGINE, vllm.__version__)
Deliver = Callable[[EngineEvent], None]
SHUT_DOWN = "the engine was shut down"
CLOSING_SECONDS = 10.0
STOPPING_SECONDS = 10.0  # for vLLM to stop a job: a step, usually
ABORT_SECONDS = 0.05  # between two tries
CLEARING_SECONDS = 2.0  # for vLLM to have freed what the last request used: a step, usually
NULL_BLOCKS = 1  # that vLLM takes for itself


@dataclass(slots=True, eq=False)
class VllmKV:
    """KV of `tokens` that vLLM keeps as it likes. `sources`: tokens of the whole prompt found on device, host and
    disk, once it is computed; None before, and where it did not get that far."""

    tokens: int
    sources: tuple[int, int, int] | None = None


@dataclass(slots=True, eq=False)
class _Running:
    """A job in the loop. `end` is what the connector tells of its request's end."""

    job: Job
    deliver: Deliver
    cancelled: threading.Event
    end: asyncio.Future[Ended]
    sources: dict[str, int] = field(default_factory=dict)
    task: asyncio.Task[LastEvent] | None = None
    stopping: asyncio.Task[None] | None = None


class VllmEngine:
    """One vLLM engine, which may span devices and nodes, and an event loop for it in a thread of its own.

    A job counts as started once vLLM has it: whoever submits sees to it that no more run than vLLM takes at a time.
    vLLM computes in the order in which jobs were submitted, but for guesses: up to as many later jobs as run at a time
    pass one. Who came last, by that order, gives memory up first, and goes on by itself, drawing as it would have.
    On a GPU vLLM draws, and a job of an answer that was split would draw anew; but none is told to be `Preempted`.
    """

    def __init__(self, arguments: AsyncEngineArgs) -> None:
        """Starts vLLM, which takes from ten seconds to minutes. ModelError if it does not start."""
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._jobs = 0
        self._work: dict[int, Work] = {}  # by engine's core
        self._bulletins: list[tuple[int, Bulletin]] = []
        self._closed = False
        self._error: str | None = None
        self._running: dict[str, _Running] = {}  # the loop's, as is what follows
        self._clearing: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="vllm-engine", daemon=True)
        self._thread.start()
        try:
            self._llm: AsyncLLM = self._await(self._start(arguments))
        except BaseException as error:
            self._end_loop()
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
        self._eos = frozenset(_eos_tokens(model))

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def bytes_per_token(self) -> int:
        return self._bytes_per_token

    def allocate(self, tokens: int) -> VllmKV:
        return VllmKV(tokens)

    def submit(self, job: Job, deliver: Deliver) -> Callable[[], None]:
        exact, _ = prefix_and_rest(job.plan)
        if not job.question or job.max_tokens < 1 or exact:
            raise ValueError("a job for vLLM needs a question, max_tokens >= 1, and all of its prompt's tokens")
        cancelled = threading.Event()

        def start() -> None:
            running = self._running[name] = _Running(job, deliver, cancelled, self._loop.create_future())
            running.task = self._loop.create_task(self._generate(number, name, running))
            running.task.add_done_callback(lambda task: self._ended(name, task))

        def stop() -> None:
            running = self._running.get(name)
            if running is not None and running.stopping is None:
                running.stopping = self._loop.create_task(self._abort(name, running))

        def cancel() -> None:
            cancelled.set()
            with self._lock:
                if not self._closed:
                    self._loop.call_soon_threadsafe(stop)

        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if self._error is not None:
                raise EngineError(f"the engine takes no more jobs, restart the server: {self._error}")
            number = next(self._numbers)
            name = f"ragcache-{number}"
            self._jobs += 1
            self._loop.call_soon_threadsafe(start)
        return cancel

    def clear(self) -> None:
        """What no request is using is given up soon: vLLM's prefix cache and what lies outside. A bulletin tells.

        Jobs that are submitted later wait for it.
        """

        def start() -> None:
            self._clearing = self._loop.create_task(self._clear(idle=not self._running))

        with self._lock:
            if not self._closed:
                self._loop.call_soon_threadsafe(start)

    def take_bulletins(self) -> list[tuple[int, Bulletin]]:
        """What the connector has told since the last call, with the number of the engine's core that it is from."""
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
        self._await(self._stop())
        self._llm.shutdown(timeout=CLOSING_SECONDS)
        self._end_loop()

    # -- in the loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _start(self, arguments: AsyncEngineArgs) -> AsyncLLM:
        def listener(config: Any, core: int) -> StatLoggerBase:
            return _Listener(config, core, self._hear)

        llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[listener])
        await llm.get_supported_tasks()  # it remembers: from now on a request is taken in without waiting
        return llm

    async def _stop(self) -> None:
        """Fails what runs."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _clear(self, *, idle: bool) -> None:
        """vLLM frees some blocks of a request a step after its end, and clears nothing of its own until then."""
        latest = self._loop.time() + CLEARING_SECONDS
        with contextlib.suppress(EngineDeadError):  # then jobs are told
            while idle and not await self._llm.reset_prefix_cache() and self._loop.time() < latest:
                await asyncio.sleep(ABORT_SECONDS)
            await self._llm.reset_prefix_cache(reset_connector=True)

    async def _abort(self, name: str, running: _Running) -> None:
        """Has vLLM stop a request, which is so at its next step."""
        with contextlib.suppress(EngineDeadError):  # then the job is told
            while name in self._running and not running.end.done():
                await self._llm.abort(name)
                await asyncio.sleep(ABORT_SECONDS)

    def _hear(self, core: int, bulletin: Bulletin) -> None:
        """What the connector tells: after a step, and before what was generated in it is delivered."""
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

    def _ended(self, name: str, task: asyncio.Task[LastEvent]) -> None:
        """Delivers a job's last event, whatever has happened."""
        running = self._running.pop(name)
        with self._lock:
            self._jobs -= 1
        running.deliver(Failed(SHUT_DOWN) if task.cancelled() else task.result())

    async def _generate(self, number: int, name: str, running: _Running) -> LastEvent:
        """A job's life, but for its last event."""
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
        _, computed = prefix_and_rest(job.plan)
        tokens = [token for piece in computed for token in piece.tokens] + list(job.question)
        prompt = tokens_input(tokens, cache_salt=None if job.namespace == "default" else job.namespace)
        params: dict[str, Any] = {NAME_PARAM: name}
        if computed:
            params[SEGMENTS_PARAM] = [len(piece) for piece in computed]
        drawn: dict[str, Any] = {
            "temperature": job.sampling.temperature,
            "top_p": job.sampling.top_p,
            "seed": job.sampling.seed,
        }
        extra: dict[str, Any] = {"kv_transfer_params": params}
        if self._draws and job.sampling.temperature:
            drawn = {"temperature": 0.0}
            extra[DRAW_PARAM] = [job.sampling.temperature, job.sampling.seed, job.sampling.top_p, job.generated]
        sampling = SamplingParams(
            **drawn,
            max_tokens=job.max_tokens,
            logprobs=2,  # for the margin
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args=extra,
        )
        # the lowest goes first; a guess comes right behind the last that may pass it
        priority = 2 * number + (2 * self._passed_by + 1) * job.guess
        prefilled = False
        async for output in self._llm.generate(prompt, sampling, name, priority=priority):
            completion = output.outputs[0]
            if completion.finish_reason == "abort" and running.cancelled.is_set():
                ended = await self._told(name, running)
                return Finished("cancelled", ended.computed, ended.kept)
            ids = list(completion.token_ids)
            if ids and not prefilled:
                prefilled = True
                for kv in job.targets:
                    kv.sources = tuple(running.sources.get(tier, 0) for tier in ("device", "host", "disk"))
                deliver(Prefilled(len(tokens)))
            logprobs = completion.logprobs or [{}] * len(ids)
            for token, candidates in zip(ids, logprobs, strict=True):
                if token in self._eos and completion.finish_reason == "stop":
                    break
                deliver(Token(token, _margin(candidates)))
            if output.finished:
                if completion.finish_reason not in ("stop", "length"):
                    raise EngineError(f"vLLM ended a job with {completion.finish_reason!r}")
                ended = await self._told(name, running)
                return Finished(completion.finish_reason, ended.computed, ended.kept)
        raise EngineError("vLLM ended a job without an answer")

    async def _told(self, name: str, running: _Running) -> Ended:
        """What became of a job; by then vLLM has freed what it held."""
        try:
            return await asyncio.wait_for(running.end, STOPPING_SECONDS)
        except TimeoutError:
            log.warning("vLLM has not told for %g s what became of %s", STOPPING_SECONDS, name)
            return Ended(0, 0, {})

    # -- in any thread

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._await(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Listener(StatLoggerBase):
    """Reads the connector's bulletins out of vLLM's statistics, of one core."""

    def __init__(self, vllm_config: Any, engine_index: int, hear: Callable[[int, Bulletin], None]) -> None:
        del vllm_config
        self._core = engine_index
        self._hear = hear

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        del iteration_stats, mm_cache_stats, engine_idx
        told = None if scheduler_stats is None else scheduler_stats.kv_connector_stats
        if told and BULLETIN in told:
            self._hear(self._core, Bulletin.from_wire(told[BULLETIN]))

    def log_engine_initialized(self) -> None:
        """Nothing."""


async def _cancel_all() -> None:
    """Ends the tasks that vLLM has left in the loop."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _margin(candidates: Any) -> float:
    """The best logit less the second: a difference of log-probabilities is one of logits."""
    best = sorted((candidate.logprob for candidate in candidates.values()), reverse=True)[:2]
    return float(best[0] - best[1]) if len(best) == 2 else 0.0


def _eos_tokens(model: Any) -> set[int]:
    """The tokens that end an answer, by the model's and its generation's configuration."""
    found: set[int] = set()
    for eos in (getattr(model.hf_config, "eos_token_id", None), model.try_get_generation_config().get("eos_token_id")):
        found.update([eos] if isinstance(eos, int) else eos or [])
    return found
