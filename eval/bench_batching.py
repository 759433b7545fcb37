"""Continuous batching in figures: decodes together, a decode beside a long prefill, and that prefill cancelled."""

from __future__ import annotations

import argparse
import json
import platform
import queue
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ragcache.console import streams
from ragcache.engine.cores import available_cores
from ragcache.engine.protocol import EngineEvent, Finished, Job, LastEvent, Prefilled, Started, Token
from ragcache.engine.torch.engine import TorchEngine
from ragcache.engine.torch.kv import KVSpan
from ragcache.engine.torch.model import StepInput, TorchModel
from ragcache.errors import RagCacheError
from ragcache.model.checkpoint import DEFAULT_MODEL, Checkpoint
from ragcache.reuse.plan import Computed, Exact

TOGETHER = 8  # sequences
TOGETHER_BOUND = 3.0  # times the tokens a second of one after another, at least
CHUNK_BOUND = 1.25  # most chunk steps that a decode or a cancellation waits: one, and what a busy machine adds


@dataclass(frozen=True, slots=True)
class _Step:
    """A forward pass: how long it took, and what it computed."""

    seconds: float
    shares: Sequence[tuple[int, int]]  # of each sequence: first position, tokens


class _WatchedModel:
    """A model that records its steps, and never ends an answer before its longest length."""

    eos_tokens: frozenset[int] = frozenset()

    def __init__(self, model: TorchModel) -> None:
        self._model = model
        self.steps: list[_Step] = []
        self.before: Callable[[_Step], None] = lambda _: None  # called when a step begins, with 0 seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward(self, steps: Sequence[StepInput]) -> Tensor:
        shares = [(step.start, len(step.tokens)) for step in steps]
        self.before(_Step(0.0, shares))
        begin = time.perf_counter()
        logits = self._model.forward(steps)
        self.steps.append(_Step(time.perf_counter() - begin, shares))
        return logits


class _Run:
    """A submitted job, its events, and when each came."""

    def __init__(self, engine: TorchEngine, job: Job) -> None:
        self.events: list[tuple[float, EngineEvent]] = []
        self._inbox: queue.SimpleQueue[tuple[float, EngineEvent]] = queue.SimpleQueue()
        self.cancel = engine.submit(job, lambda event: self._inbox.put((time.perf_counter(), event)))

    def until(self, *kinds: type) -> _Run:
        """Waits for the next event of these kinds. Raises RuntimeError if the job ends with another."""
        while True:
            self.events.append(self._inbox.get())
            event = self.events[-1][1]
            if isinstance(event, kinds):
                return self
            if isinstance(event, LastEvent):
                raise RuntimeError(f"a job ended too early: {event}")

    def ended(self) -> _Run:
        return self.until(Finished)

    def times(self, kind: type) -> list[float]:
        return [came for came, event in self.events if isinstance(event, kind)]


class BatchingBench:
    """Measures an engine over the default model. Timings that are compared are taken in turn."""

    def __init__(self, model: TorchModel, *, threads: int, chunk: int = 512) -> None:
        self._model = _WatchedModel(model)
        self._chunk = chunk
        self._vocab = model.vocab_size
        self._engine = TorchEngine(self._model, prefill_chunk=chunk, threads=threads)  # type: ignore[arg-type]

    def close(self) -> None:
        self._engine.close()

    def decode(self, context: int, tokens: int, runs: int) -> dict[str, Any]:
        """Tokens a second of sequences that decode together and one after another, each over KV of its own."""
        contexts = [self._context(context, seed) for seed in range(TOGETHER)]
        together, alone = [], []
        for _ in range(runs + 1):
            group = [_Run(self._engine, self._job([kv], 1, tokens, seed)) for seed, kv in enumerate(contexts)]
            together.append(_decode_rate([run.ended() for run in group]))
            # one's rate is that of one after another: each is as long as the others, and no time lies between them
            singles = [
                _decode_rate([_Run(self._engine, self._job([kv], 1, tokens, seed)).ended()])
                for seed, kv in enumerate(contexts)
            ]
            alone.append(statistics.harmonic_mean(singles))
        ratios = [a / b for a, b in zip(together[1:], alone[1:], strict=True)]  # the first round warms up
        return {
            "context": context,
            "sequences": TOGETHER,
            "together_tokens_per_second": round(statistics.median(together[1:]), 1),
            "alone_tokens_per_second": round(statistics.median(alone[1:]), 1),
            "ratio": round(statistics.median(ratios), 2),
            "at_least": TOGETHER_BOUND,
        }

    def beside_prefill(self, context: int, prompt: int, runs: int) -> dict[str, Any]:
        """How long a decode waits for a prefill of `prompt` tokens, in steps of that prefill when it runs alone.

        A wait is the longest time between two tokens of the decode while the prompt is computed, less what a decode
        takes alone.
        """
        cached = self._context(context, 0)
        rounds = []
        for _ in range(runs):
            chunk_seconds = max(step.seconds for step in self._prefill_alone(prompt))
            decode = _Run(self._engine, self._job([cached], 1, prompt, 0))
            for _ in range(8):
                decode.until(Token)
            prefill = _Run(self._engine, self._job([], prompt, 1, 1)).ended()
            decode.until(Token).cancel()
            decode.ended()
            (first,), (last,) = prefill.times(Started), prefill.times(Prefilled)
            before = [came for came in decode.times(Token) if came < first]
            # from the token before the prefill to the one that comes with its last step
            during = [before[-1], *(came for came in decode.times(Token) if first <= came)]
            during = [came for came in during if came <= last] + [next((came for came in during if came > last), last)]
            gaps = [after - came for came, after in pairwise(during)]
            alone = statistics.median(after - came for came, after in pairwise(before[1:]))
            chunks = sum(any(tokens > 1 for _, tokens in step.shares) for step in self._model.steps[-len(gaps) :])
            rounds.append((max(gaps), chunk_seconds, (max(gaps) - alone) / chunk_seconds, len(gaps) / max(1, chunks)))
        gap, chunk, ratio, tokens_per_chunk = (statistics.median(values) for values in zip(*rounds, strict=True))
        return {
            "prompt": prompt,
            "chunk": self._chunk,
            "longest_gap_seconds": round(gap, 4),
            "longest_chunk_alone_seconds": round(chunk, 4),
            "tokens_per_chunk": round(tokens_per_chunk, 2),
            "ratio": round(ratio, 3),
            "at_most": CHUNK_BOUND,
        }

    def cancelled(self, prompt: int, runs: int) -> dict[str, Any]:
        """From cancelling a prefill of `prompt` tokens to its end, in steps of the same position when it runs alone.

        It is cancelled when the step in its middle has just begun: no later moment costs more.
        """
        middle = prompt // 2 // self._chunk * self._chunk
        rounds = []
        for _ in range(runs):
            (alone,) = [step for step in self._prefill_alone(prompt) if step.shares[0][0] == middle]
            cancelled_at: list[float] = []
            running: list[_Run] = []

            def cancel(step: _Step, cancelled_at: list[float] = cancelled_at, running: list[_Run] = running) -> None:
                if step.shares[0][0] == middle:
                    cancelled_at.append(time.perf_counter())
                    running[0].cancel()

            self._model.before = cancel
            try:
                running.append(_Run(self._engine, self._job([], prompt, 1, 1)))
                run = running[0].ended()
            finally:
                self._model.before = lambda _: None
            ended_at, event = run.events[-1]
            if not isinstance(event, Finished) or event.reason != "cancelled":
                raise RuntimeError(f"the prefill was to be cancelled, and ended with {event}")
            seconds = ended_at - cancelled_at[0]
            rounds.append((seconds, alone.seconds, seconds / alone.seconds, event.computed_tokens - middle))
        return {
            "prompt": prompt,
            "chunk": self._chunk,
            "cancel_seconds": round(statistics.median(row[0] for row in rounds), 4),
            "step_alone_seconds": round(statistics.median(row[1] for row in rounds), 4),
            "tokens_after_cancel": max(row[3] for row in rounds),
            "ratio": round(statistics.median(row[2] for row in rounds), 3),
            "at_most": CHUNK_BOUND,
        }

    def _prefill_alone(self, prompt: int) -> list[_Step]:
        self._model.steps.clear()
        _Run(self._engine, self._job([], prompt, 1, 1)).ended()
        return list(self._model.steps)

    def _context(self, tokens: int, seed: int) -> KVSpan:
        """The KV of this number of tokens, computed by the engine."""
        span = self._engine.allocate(tokens)
        plan = (Computed(self._ids(tokens, seed)),)
        job = Job(plan, [span], self._ids(1, seed), self._engine.allocate(1), 1)
        _Run(self._engine, job).ended()
        return span

    def _job(self, cached: Sequence[KVSpan], question: int, tokens: int, seed: int) -> Job:
        memory = self._engine.allocate(question + tokens)
        plan = tuple(Exact(span.length, span) for span in cached)
        return Job(plan, [], self._ids(question, 1000 + seed), memory, tokens)

    def _ids(self, count: int, seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(100, self._vocab, (count,), generator=generator).tolist()


def _decode_rate(runs: Sequence[_Run]) -> float:
    """Tokens a second of all runs together, while all of them decode."""
    begin = max(run.times(Token)[0] for run in runs)
    end = min(run.times(Token)[-1] for run in runs)
    return sum(sum(begin < came <= end for came in run.times(Token)) for run in runs) / (end - begin)


def _holds(row: dict[str, Any]) -> bool:
    if "at_least" in row:
        return bool(row["ratio"] >= row["at_least"])
    return bool(row["ratio"] <= row["at_most"] and row.get("tokens_after_cancel", 0) <= row["chunk"])


def _in_words(report: dict[str, Any]) -> str:
    lines = [report["machine"]]
    for row in report["decode"]:
        lines.append(
            f"  decode of {row['sequences']} at context {row['context']:,}: "
            f"{row['together_tokens_per_second']} tokens/s together, {row['alone_tokens_per_second']} one after "
            f"another: {row['ratio']}x (at least {row['at_least']})"
        )
    beside, cancelled = report["beside_prefill"], report["cancelled"]
    lines.append(
        f"  a decode beside a prefill of {beside['prompt']:,}: at most {beside['longest_gap_seconds'] * 1e3:.0f} ms "
        f"between tokens; it waits {beside['ratio']} chunk steps (at most {beside['at_most']})"
    )
    lines.append(
        f"  that prefill cancelled: over after {cancelled['cancel_seconds'] * 1e3:.0f} ms, {cancelled['ratio']} steps "
        f"(at most {cancelled['at_most']}), {cancelled['tokens_after_cancel']} tokens later (at most "
        f"{cancelled['chunk']})"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.bench_batching", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--contexts", type=int, nargs="+", default=[256, 1024], metavar="N", help="tokens decoded after"
    )
    parser.add_argument("--prompt", type=int, default=4000, metavar="N", help="tokens of the prefill (%(default)s)")
    parser.add_argument("--tokens", type=int, default=16, metavar="N", help="decoded by each (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="of each measurement (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="torch threads (default: one a core)")
    arguments = parser.parse_args(argv)
    if min(*arguments.contexts, arguments.runs, arguments.threads or 1) < 1 or arguments.tokens < 3:
        parser.error("--contexts, --runs and --threads must be at least 1, --tokens at least 3")
    if arguments.prompt <= 1024:
        parser.error("--prompt must be over 1024, so that a step begins in its middle")
    threads = arguments.threads or available_cores()
    try:
        bench = BatchingBench(TorchModel.load(Checkpoint.resolve(DEFAULT_MODEL)), threads=threads)
    except RagCacheError as error:
        print(f"bench_batching: {error}", file=sys.stderr)
        return 1
    try:
        report: dict[str, Any] = {
            "machine": f"{platform.machine()}, torch {torch.__version__}, {threads} threads",
            "runs": arguments.runs,
            "decode": [bench.decode(context, arguments.tokens, arguments.runs) for context in arguments.contexts],
            "beside_prefill": bench.beside_prefill(arguments.contexts[0], arguments.prompt, arguments.runs),
            "cancelled": bench.cancelled(arguments.prompt, arguments.runs),
        }
    finally:
        bench.close()
    rows = [*report["decode"], report["beside_prefill"], report["cancelled"]]
    report["holds"] = all(map(_holds, rows))
    print(json.dumps(report, indent=2) if arguments.json else _in_words(report))
    return 0 if report["holds"] else 1


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.bench_batching"))
