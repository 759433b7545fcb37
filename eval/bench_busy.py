"""BusyBench: how much longer a prefill, a decoded token and the embedding of texts take beside busy processes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from eval.props.bound import Bound
from eval.props.neighbours import neighbours
from eval.props.timed_engine import TimedEngine
from ragcache.engine.torch.model import TorchModel
from ragcache.model.checkpoint import Checkpoint
from retrieval.embedder import Embedder

PROMPT = 512  # tokens
STEPS = 16  # decoded tokens
TEXTS = 48
SETTLE_SECONDS = 1.0  # processes start or have ended, and the engine notices
# A thread's share beside one busy process a core is half a core, beside three a quarter. The rest is what it costs that
# threads which share an operation are not run at the same time
LIMITS = {"one": 2.0, "one a core": 3.0, "three a core": 5.0}


def busy_processes(cores: int) -> dict[str, int]:
    """How many busy processes each load has."""
    return {"one": 1, "one a core": cores, "three a core": 3 * cores}


class BusyBench:
    """Times the same work on the quiet machine and beside processes that compute, which it starts and ends."""

    def __init__(self, checkpoint: Checkpoint, runs: int, threads: int, loads: Collection[str] = LIMITS) -> None:
        """`loads` are names of LIMITS."""
        self._loads = {name: count for name, count in busy_processes(threads).items() if name in loads}
        self._checkpoint = checkpoint
        self._runs = runs
        self._threads = threads

    def run(self) -> tuple[dict[str, Any], list[Bound]]:
        """The times, and each as a ratio to the quiet time. Engine and embedder are not loaded at the same time."""
        engine = TimedEngine(TorchModel.load(self._checkpoint), self._threads)
        try:
            times = self._measure(
                {f"prefill of {PROMPT} tokens": partial(engine.prefill, PROMPT)}
                | {"decoded token": partial(engine.decode, PROMPT, STEPS)}
            )
        finally:
            engine.close()
        embedder = Embedder.load(threads=self._threads)
        texts = [f"text number {n} " * 60 for n in range(TEXTS)]
        times |= self._measure({f"embedding of {TEXTS} texts": lambda: _seconds(lambda: embedder.encode(texts))})
        bounds = [
            Bound(f"{name}, beside {load} / quiet", row[load]["ratio"], limit)
            for name, row in times.items()
            for load, limit in LIMITS.items()
            if load in self._loads
        ]
        return times, bounds

    def _measure(self, works: Mapping[str, Callable[[], float]]) -> dict[str, Any]:
        """Medians of each work, in ms. The quiet machine is measured before each load, so that a drift shows."""
        quiet: dict[str, list[float]] = {name: [] for name in works}
        busy: dict[str, dict[str, float]] = {name: {} for name in works}
        for work in works.values():
            work()  # what the first call sets up is not measured
        for load, count in self._loads.items():
            time.sleep(SETTLE_SECONDS)
            for name, work in works.items():
                quiet[name] += [work() for _ in range(self._runs)]
            with neighbours(count):
                time.sleep(SETTLE_SECONDS)
                for name, work in works.items():
                    busy[name][load] = statistics.median(work() for _ in range(self._runs))
        report: dict[str, Any] = {}
        for name in works:
            normal = statistics.median(quiet[name])
            rows = {
                load: {"ms": round(1000 * seconds, 1), "ratio": round(seconds / normal, 3)}
                for load, seconds in busy[name].items()
            }
            report[name] = {"quiet_ms": round(1000 * normal, 1), **rows}
        return report


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
