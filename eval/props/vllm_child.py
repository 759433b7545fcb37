"""VllmChild: a vLLM engine in a process of its own, asked one prompt at a time, for measurements."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from vllm import LLM, SamplingParams

BLOCK = 32
# in one process, so that nothing but the engine is measured, and so that it can be stepped
_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt's answer: seconds to its last token, its token ids, and the prompt tokens that each tier had."""

    seconds: float
    ids: tuple[int, ...]
    cached: dict[str, int]


class VllmChild:
    """vLLM over `model` in float32, with `blocks` blocks of 32 tokens and its prefix cache on. A context manager.

    `connector` are the settings of our connector, which is plugged in as the README says; None is plain vLLM. `eager`
    saves the compilation, most of a minute, and makes steps slower.
    """

    def __init__(
        self, model: str, blocks: int, max_tokens: int, connector: dict[str, Any] | None, *, eager: bool = False
    ) -> None:
        os.environ |= _ENVIRONMENT  # which the child inherits, and vLLM reads when it is imported
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, model, blocks, max_tokens, connector, eager), daemon=True
        )
        self._process.start()
        theirs.close()
        self._receive()

    def ask(self, prompt: Sequence[int], segments: Sequence[int], tokens: int = 1) -> Asked:
        """A greedy answer of `tokens` tokens. Copies and writes that follow have ended on return, and are not timed."""
        self._pipe.send(("ask", list(prompt), list(segments), tokens))
        asked: Asked = self._receive()
        return asked

    def forget_device(self) -> None:
        """Empties vLLM's own prefix cache; the tiers outside keep theirs."""
        self._pipe.send(("forget",))
        self._receive()

    def forget_all(self) -> None:
        """Empties vLLM's own prefix cache and the tiers outside."""
        self._pipe.send(("clear",))
        self._receive()

    def __enter__(self) -> VllmChild:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()

    def _receive(self) -> Any:
        received = self._pipe.recv()
        if isinstance(received, Exception):
            raise received
        return received


def _serve(
    pipe: Connection, model: str, blocks: int, max_tokens: int, connector: dict[str, Any] | None, eager: bool
) -> None:
    """Runs in the child: carries out commands until the pipe is closed."""
    try:
        engine = _Engine(model, blocks, max_tokens, connector, eager)
        pipe.send(None)
    except Exception as error:  # raised in the parent
        pipe.send(RuntimeError(f"vLLM does not start: {type(error).__name__}: {error}"))
        return
    while True:
        try:
            command, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(getattr(engine, command)(*arguments))
        except Exception as error:  # as above
            pipe.send(RuntimeError(f"{command}: {type(error).__name__}: {error}"))


class _Engine:
    """vLLM in the child's own process, and what each command does."""

    def __init__(self, model: str, blocks: int, max_tokens: int, connector: dict[str, Any] | None, eager: bool) -> None:
        options: dict[str, Any] = {}
        if connector is not None:
            options["kv_transfer_config"] = {
                "kv_connector": "RagCacheConnector",
                "kv_connector_module_path": "ragcache.engine.vllm.connector",
                "kv_role": "kv_both",
                "kv_load_failure_policy": "recompute",
                "kv_connector_extra_config": connector,
            }
        self._llm = LLM(
            model=model,
            dtype="float32",
            block_size=BLOCK,
            max_model_len=max_tokens,
            max_num_batched_tokens=max_tokens,
            num_gpu_blocks_override=blocks,
            enable_prefix_caching=True,
            enforce_eager=eager,
            **options,
        )
        self._core: Any = self._llm.llm_engine.engine_core.engine_core

    def ask(self, prompt: list[int], segments: list[int], tokens: int) -> Asked:
        extra = {"kv_transfer_params": {"segments": segments}}
        sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True, extra_args=extra)
        begin = time.perf_counter()
        (output,) = self._llm.generate({"prompt_token_ids": prompt}, sampling, use_tqdm=False)
        seconds = time.perf_counter() - begin
        self._settle()
        returned = output.kv_transfer_params or {}
        cached = returned.get("cached_tokens", {"device": output.num_cached_tokens or 0})
        return Asked(seconds, tuple(output.outputs[0].token_ids), dict(cached))

    def forget(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM could not empty its prefix cache")

    def clear(self) -> None:
        self.forget()
        self._core.scheduler.reset_connector_cache()
        self._settle()

    def _settle(self) -> None:
        while self._core.scheduler.has_requests():
            self._core.step_fn()
