"""TransformersProcess: plain `transformers` in a process of its own, which the engine's figures are compared with.

In one process the two would slow each other: each thread that runs parallel torch work keeps its own pool of OpenMP
threads, and once the pools together exceed the cores, libgomp stops spinning and every operation waits to be woken.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from ragcache.model.checkpoint import Checkpoint


class TransformersProcess:
    """Times forwards of the unmodified model. A context manager; idle while nothing is asked of it."""

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_pipe, checkpoint.location, threads), daemon=True)
        self._process.start()
        child_pipe.close()

    def prefill(self, tokens: Sequence[int]) -> float:
        """Seconds of one forward over `tokens`, with logits of the last token only."""
        return self._ask("prefill", list(tokens))

    def decode(self, tokens: Sequence[int], steps: int) -> float:
        """Median seconds of a greedy step after `tokens`."""
        return self._ask("decode", list(tokens), steps)

    def make_ready(self, tokens: Sequence[int]) -> None:
        """Keeps the KV of `tokens` for `extend`."""
        self._ask("make_ready", list(tokens))

    def extend(self, tokens: Sequence[int]) -> float:
        """Seconds of one forward over `tokens` behind those that are ready, which stay as they are."""
        return self._ask("extend", list(tokens))

    def _ask(self, name: str, *arguments: Any) -> float:
        self._pipe.send((name, *arguments))
        try:
            return float(self._pipe.recv())
        except EOFError:
            raise RuntimeError("the process of the plain model ended; see its error above") from None

    def close(self) -> None:
        self._pipe.close()  # ends its loop
        self._process.join()

    def __enter__(self) -> TransformersProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _PlainModel:
    """What the process runs: the unmodified model, and the KV that is kept for `extend`."""

    def __init__(self, location: str) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32).eval()
        self._ready = DynamicCache()

    def prefill(self, tokens: list[int]) -> float:
        return self._forward(tokens)[1]

    def decode(self, tokens: list[int], steps: int) -> float:
        cache, _ = self._forward(tokens)
        token = torch.tensor([tokens[-1:]])
        times = []
        for _ in range(steps):
            begin = time.perf_counter()
            logits = self._model(token, past_key_values=cache, use_cache=True).logits
            token = logits[:, -1].argmax(-1, keepdim=True)
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    def make_ready(self, tokens: list[int]) -> float:
        self._ready, seconds = self._forward(tokens)
        return seconds

    def extend(self, tokens: list[int]) -> float:
        _, seconds = self._forward(tokens, self._ready)
        self._ready.crop(-len(tokens))
        return seconds

    def _forward(self, tokens: list[int], cache: DynamicCache | None = None) -> tuple[DynamicCache, float]:
        ids = torch.tensor([tokens])
        begin = time.perf_counter()
        output = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.past_key_values, time.perf_counter() - begin


def _serve(pipe: Connection, location: str, threads: int) -> None:
    torch.set_num_threads(threads)
    with torch.inference_mode():
        plain = _PlainModel(location)
        while True:
            try:
                name, *arguments = pipe.recv()
            except (EOFError, KeyboardInterrupt):
                return
            pipe.send(getattr(plain, name)(*arguments))
