"""TimedEngine: the torch engine, asked for one prefill or one answer at a time, for measurements."""

from __future__ import annotations

import queue
import statistics
import time
from itertools import pairwise

import torch

from ragcache.engine.protocol import EngineEvent, Failed, Finished, Job, Token
from ragcache.engine.torch.engine import TorchEngine
from ragcache.engine.torch.kv import KVSpan
from ragcache.engine.torch.model import TorchModel
from ragcache.reuse.plan import Computed, Exact, ReusePlan


def random_ids(count: int, seed: int) -> list[int]:
    """Token ids that every vocabulary of a real model has, without its first, special ones."""
    return torch.randint(100, 30_000, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def segments(n: int) -> list[list[int]]:
    """`n` token ids cut as a RAG prompt is: system prompt, two documents, question."""
    ids = random_ids(n, seed=n)
    ends = [40, 40 + (n - 60) // 2, n - 20, n]
    return [ids[first:last] for first, last in zip([0, *ends], ends, strict=False)]


class TimedEngine:
    """Times jobs over made-up prompts; the caller closes it."""

    def __init__(self, model: TorchModel, threads: int) -> None:
        self._engine = TorchEngine(model, threads=threads)

    def prefill(self, n: int) -> float:
        """Seconds to the first token after a prompt of `n` tokens."""
        return self._prefill(n)[1]

    def decode(self, n: int, tokens: int) -> float:
        """Median seconds between two of `tokens` tokens of an answer over `n` tokens, of which documents are cached.

        Raises RuntimeError if the model ends its answer before that.
        """
        spans, _ = self._prefill(n)
        _, times = self._run(spans, [], segments(n)[-1], tokens)
        if len(times) < 2:
            raise RuntimeError("the model ended its answer at once; decode cannot be timed on it")
        return statistics.median(b - a for a, b in pairwise(times))

    def close(self) -> None:
        self._engine.close()

    def _prefill(self, n: int) -> tuple[list[KVSpan], float]:
        *path, question = segments(n)
        spans, times = self._run([], path, question, 1)
        return spans, times[0]

    def _run(
        self, cached: list[KVSpan], missing: list[list[int]], question: list[int], tokens: int
    ) -> tuple[list[KVSpan], list[float]]:
        """Runs one job; returns the spans of `missing` and the seconds from submission to each token."""
        spans = [self._engine.allocate(len(part)) for part in missing]
        own = self._engine.allocate(len(question) + tokens)
        events: queue.SimpleQueue[tuple[float, EngineEvent]] = queue.SimpleQueue()
        plan: ReusePlan = (*(Exact(span.length, span) for span in cached), *map(Computed, missing))
        job = Job(plan, spans, question, own, tokens)
        begin = time.perf_counter()
        self._engine.submit(job, lambda event: events.put((time.perf_counter() - begin, event)))
        times = []
        while True:
            seconds, event = events.get()
            if isinstance(event, Token):
                times.append(seconds)
            if isinstance(event, Failed):
                raise RuntimeError(event.message)
            if isinstance(event, Finished):
                return spans, times
