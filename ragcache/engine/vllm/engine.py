"""VllmEngine: vLLM behind the engine protocol.

vLLM owns all KV: what it has itself, it finds by its blocks' hashes, and what lies outside, the connector brings. So
the memory that is handed about here is only a name for it, and where a prompt's KV came from is known when it is done.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from ragcache.engine.protocol import (
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    FinishReason,
    Job,
    Prefilled,
    Started,
    Token,
)
from ragcache.engine.vllm.passages import SEGMENTS_PARAM
from ragcache.errors import EngineError, ModelError

log = logging.getLogger(__name__)

Deliver = Callable[[EngineEvent], None]
TIERS = ("device", "host", "disk")
SHUT_DOWN = "the engine was shut down"
CLOSING_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class VllmKV:
    """KV of `tokens` that vLLM keeps as it likes. `sources`: tokens of the whole prompt found on device, host and
    disk, once the job has ended; None before, and where it did not get that far."""

    tokens: int
    sources: tuple[int, int, int] | None = None


class VllmEngine:
    """One vLLM engine, which may span devices and nodes, and an event loop for it in a thread of its own.

    A job counts as started once vLLM has it: whoever submits sees to it that no more run than vLLM takes at a time.
    An answer that is split into jobs goes on as it would have only if it is greedy: vLLM's draws start anew.
    """

    def __init__(self, arguments: AsyncEngineArgs) -> None:
        """Starts vLLM, which takes from ten seconds to minutes. ModelError if it does not start."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="vllm-engine", daemon=True)
        self._thread.start()
        try:
            self._llm: AsyncLLM = self._await(_start(arguments))
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
        self.capacity_tokens = int(cache.num_gpu_blocks) * int(cache.block_size)
        self._eos = frozenset(_eos_tokens(model))
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._stats = EngineStats(0, 0, 0.0, 0, 0)
        self._busy_since = 0.0
        self._closed = False
        self._error: str | None = None
        self._running: dict[str, asyncio.Task[None]] = {}  # the loop's

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def bytes_per_token(self) -> int:
        return self._bytes_per_token

    def allocate(self, tokens: int) -> VllmKV:
        return VllmKV(tokens)

    def submit(self, job: Job, deliver: Deliver) -> Callable[[], None]:
        if not job.question or job.max_tokens < 1 or job.cached:
            raise ValueError("a job for vLLM needs a question, max_tokens >= 1, and all of its prompt's tokens")
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if self._error is not None:
                raise EngineError(f"the engine takes no more jobs, restart the server: {self._error}")
        name = f"ragcache-{next(self._numbers)}"
        cancelled = threading.Event()

        def start() -> None:
            self._running[name] = self._loop.create_task(self._generate(name, job, deliver, cancelled))

        def cancel() -> None:
            cancelled.set()
            self._loop.call_soon_threadsafe(stop)

        def stop() -> None:
            task = self._running.get(name)
            if task is not None:
                task.cancel()

        self._loop.call_soon_threadsafe(start)
        return cancel

    def clear(self) -> None:
        """What no request is using is given up soon: vLLM's prefix cache and what lies outside."""
        with self._lock:
            if not self._closed:
                asyncio.run_coroutine_threadsafe(self._llm.reset_prefix_cache(reset_connector=True), self._loop)

    def stats(self) -> EngineStats:
        with self._lock:
            stats, busy = self._stats, self._busy_since
            seconds = stats.step_seconds + (time.monotonic() - busy if stats.running else 0.0)
            return dataclasses.replace(
                stats, step_seconds=seconds, error=self._error, alive=not self._closed and self._error is None
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

    async def _stop(self) -> None:
        """Fails what runs."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _generate(self, name: str, job: Job, deliver: Deliver, cancelled: threading.Event) -> None:
        """A job's life; its last event is delivered whatever happens."""
        self._count(running=1)
        last: EngineEvent = Failed(SHUT_DOWN)
        memory: VllmKV = job.memory
        try:
            deliver(Started())
            reason = await self._answer(name, job, deliver, memory)
            last = Finished(reason, sum(len(tokens) for tokens, _ in job.missing) + len(job.question))
        except asyncio.CancelledError:
            if cancelled.is_set():
                last = Finished("cancelled")
        except EngineDeadError as error:
            with self._lock:
                self._error = str(error) or "vLLM's engine died; its log says why"
            last = Failed(self._error)
        except Exception as error:  # whatever vLLM raises ends this job alone
            log.exception("vLLM failed at a job")
            last = Failed(f"{type(error).__name__}: {error}")
        finally:
            for _, kv in job.missing:
                kv.sources = memory.sources
            self._running.pop(name, None)
            self._count(running=-1)
            deliver(last)

    async def _answer(self, name: str, job: Job, deliver: Deliver, memory: VllmKV) -> FinishReason:
        prompt = [token for tokens, _ in job.missing for token in tokens] + list(job.question)
        lengths = [len(tokens) for tokens, _ in job.missing]
        sampling = SamplingParams(
            temperature=job.sampling.temperature,
            top_p=job.sampling.top_p,
            seed=job.sampling.seed,
            max_tokens=job.max_tokens,
            logprobs=2,  # for the margin
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={"kv_transfer_params": {SEGMENTS_PARAM: lengths}} if lengths else {},
        )
        first = True
        async for output in self._llm.generate({"prompt_token_ids": prompt}, sampling, name):
            if first:
                computed = len(prompt) - (output.num_cached_tokens or 0)
                self._count(prefilled=computed)
                deliver(Prefilled(len(prompt)))
                first = False
            completion = output.outputs[0]
            if output.finished and output.kv_transfer_params is not None:
                found = output.kv_transfer_params.get("cached_tokens", {})
                memory.sources = (found.get("device", 0), found.get("host", 0), found.get("disk", 0))
            ids = list(completion.token_ids)
            logprobs = completion.logprobs or [{}] * len(ids)
            for token, candidates in zip(ids, logprobs, strict=True):
                if token in self._eos and completion.finish_reason == "stop":
                    break
                self._count(decoded=1)
                deliver(Token(token, _margin(candidates)))
            if output.finished:
                if completion.finish_reason not in ("stop", "length"):
                    raise EngineError(f"vLLM ended a job with {completion.finish_reason!r}")
                return "stop" if completion.finish_reason == "stop" else "length"
        raise EngineError("vLLM ended a job without an answer")

    # -- in any thread

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._await(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _count(self, running: int = 0, prefilled: int = 0, decoded: int = 0) -> None:
        """A step is counted for each token that arrives: vLLM's own are not seen here. Time is that with jobs."""
        with self._lock:
            old, now = self._stats, time.monotonic()
            seconds = old.step_seconds
            if running > 0 and not old.running:
                self._busy_since = now
            elif running < 0 and old.running == 1:
                seconds += now - self._busy_since
            self._stats = dataclasses.replace(
                old,
                running=old.running + running,
                steps=old.steps + decoded,
                step_seconds=seconds,
                prefill_tokens=old.prefill_tokens + prefilled,
                decode_tokens=old.decode_tokens + decoded,
            )


async def _start(arguments: AsyncEngineArgs) -> AsyncLLM:
    return AsyncLLM.from_engine_args(arguments)


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
