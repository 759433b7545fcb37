"""VllmChild: a vLLM engine in a process of its own, asked one prompt at a time. For measuring."""

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
    """What one prompt took: seconds to the last of its tokens, and prompt tokens found, by tier."""

    seconds: float
    ids: tuple[int, ...]
    cached: dict[str, int]


class VllmChild:
    """vLLM over `model` in float32, `blocks` of 32 tokens for its KV and its prefix cache on. A context manager.

    `eager` spares the compilation, most of a minute, and makes steps slower.

    With `connector`, its settings, ours is plugged in as the README says; None is plain vLLM.
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
        """Greedy; what is to be copied and written afterwards is, on return, and not in the seconds."""
        self._pipe.send(("ask", list(prompt), list(segments), tokens))
        found: Asked = self._receive()
        return found

    def forget_device(self) -> None:
        """vLLM's own prefix cache is emptied; what is outside stays."""
        self._pipe.send(("forget",))
        self._receive()

    def forget_all(self) -> None:
        """So is what is outside."""
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
        found = self._pipe.recv()
        if isinstance(found, Exception):
            raise found
        return found


def _serve(
    pipe: Connection, model: str, blocks: int, max_tokens: int, connector: dict[str, Any] | None, eager: bool
) -> None:
    """The child's life: until the pipe is closed."""
    try:
        engine = _Engine(model, blocks, max_tokens, connector, eager)
        pipe.send(None)
    except Exception as error:  # told to who waits
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
    """vLLM in this process."""

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
        told = output.kv_transfer_params or {}
        cached = told.get("cached_tokens", {"device": output.num_cached_tokens or 0})
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
