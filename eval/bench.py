"""The figures of the embedded engine and its cache, as JSON: each a ratio to plain `transformers` in the same run."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from eval.demo_corpus import demo_index
from eval.props.question_set import read_questions
from eval.props.transformers_process import TransformersProcess
from ragcache.cli.assembly.torch import assemble, available_cores
from ragcache.cli.config import ServeConfig
from ragcache.console import streams
from ragcache.engine.protocol import EngineEvent, Failed, Finished, Job, Token
from ragcache.engine.torch.engine import TorchEngine
from ragcache.engine.torch.kv import KVSpan
from ragcache.engine.torch.model import TorchModel
from ragcache.errors import RagCacheError
from ragcache.model.checkpoint import Checkpoint
from ragcache.prompt.template import PromptTemplate
from ragcache.reuse.plan import Computed, Exact, ReusePlan
from ragcache.service.answer import Answer, Query
from ragcache.service.service import RagService
from retrieval.errors import RetrievalError
from retrieval.retriever import Retriever
from server.client import RagClient, ServerError

LENGTHS = (256, 1024, 2048)
DOCUMENT_TOKENS = 2000
DECODE_STEPS = 24
QUESTIONS = Path(__file__).parent / "questions" / "python.jsonl"
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure, and the largest value it may have."""

    name: str
    value: float
    limit: float

    def row(self) -> dict[str, Any]:
        return {"figure": self.name, "value": round(self.value, 4), "limit": self.limit, "ok": self.value <= self.limit}


def paired(first: Callable[[], float], second: Callable[[], float], runs: int) -> dict[str, float]:
    """Medians of two timings taken in turn (A B, B A, …) after one uncounted run of each, and of their ratios."""
    first(), second()
    pairs = []
    for run in range(runs):
        if run % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        pairs.append((a, b))
    return {
        "ours_ms": round(1000 * statistics.median(a for a, _ in pairs), 2),
        "plain_ms": round(1000 * statistics.median(b for _, b in pairs), 2),
        "ratio": round(statistics.median(a / b for a, b in pairs), 4),
    }


def _ttft(answer: Answer) -> float:
    """Time to first token, in seconds."""
    return answer.timing.ttft_ms / 1000


def random_ids(count: int, seed: int) -> list[int]:
    """Token ids that every vocabulary of a real model has, without its first, special ones."""
    return torch.randint(100, 30_000, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def segments(n: int) -> list[list[int]]:
    """`n` token ids cut as a RAG prompt is: system prompt, two documents, question."""
    ids = random_ids(n, seed=n)
    ends = [40, 40 + (n - 60) // 2, n - 20, n]
    return [ids[first:last] for first, last in zip([0, *ends], ends, strict=False)]


class EngineBench:
    """Prefill and decode of the torch engine beside the plain forward over the same tokens."""

    def __init__(self, checkpoint: Checkpoint, plain: TransformersProcess, runs: int, threads: int) -> None:
        self._runs = runs
        self._plain = plain
        self._engine = TorchEngine(TorchModel.load(checkpoint), threads=threads)

    def run(self) -> tuple[dict[str, Any], list[Bound]]:
        timings: dict[str, Any] = {"prefill": {}, "decode": {}}
        bounds = []
        try:
            for n in LENGTHS:
                tokens = [token for part in segments(n) for token in part]
                prefill = paired(partial(self._time_prefill, n), partial(self._plain.prefill, tokens), self._runs)
                decode = paired(partial(self._decode, n), partial(self._plain.decode, tokens, DECODE_STEPS), self._runs)
                timings["prefill"][n], timings["decode"][n] = prefill, decode
                bounds.append(Bound(f"prefill of {n} tokens / plain forward", prefill["ratio"], 1.10))
                bounds.append(Bound(f"decode after {n} tokens / plain, a token", decode["ratio"], 1.15))
        finally:
            self._engine.close()
        return timings, bounds

    def _time_prefill(self, n: int) -> float:
        return self._prefill(n)[1]

    def _decode(self, n: int) -> float:
        """Median seconds between two tokens of an answer over cached documents."""
        spans, _ = self._prefill(n)
        _, times = self._run(spans, [], segments(n)[-1], DECODE_STEPS)
        if len(times) < 2:
            raise RuntimeError("the model ended its answer at once; decode cannot be timed on it")
        return statistics.median(b - a for a, b in pairwise(times))

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


class CachedBench:
    """TTFT of the whole service with all documents cached: beside a plain forward, and beside itself when cold."""

    def __init__(self, index: Path, plain: TransformersProcess, runs: int, threads: int) -> None:
        self._runs = runs
        self._plain = plain
        self._service = assemble(ServeConfig(index=index, threads=threads, max_tokens=1))

    def run(self, question: str) -> tuple[dict[str, Any], list[Bound]]:
        try:
            with asyncio.Runner() as runner:
                return self._measure(runner, question)
        finally:
            self._service.close()

    def _measure(self, runner: asyncio.Runner, question: str) -> tuple[dict[str, Any], list[Bound]]:
        def cold() -> Answer:
            self._service.cache.drop_unheld()
            return runner.run(_answer(self._service, question))

        def warm() -> Answer:
            return runner.run(_answer(self._service, question))

        cold()
        usage = warm().usage
        cached, computed = usage.cached_tokens.device, usage.computed_tokens
        self._plain.make_ready(random_ids(cached, seed=0))
        against_plain = paired(
            lambda: _ttft(warm()), partial(self._plain.extend, random_ids(computed, seed=1)), 5 * self._runs
        )
        against_cold = paired(lambda: _ttft(warm()), lambda: _ttft(cold()), self._runs)
        row = {
            "question": question,
            "cached_tokens": cached,
            "remaining_tokens": computed,
            "against_plain_forward": against_plain,
            "against_cold": {**against_cold, "cold_ms": against_cold.pop("plain_ms")},
            "phases": asdict(warm().timing),
        }
        return row, [
            Bound("cached TTFT / plain forward of the rest over a ready KV", against_plain["ratio"], 1.25),
            Bound("cached TTFT / cold TTFT", against_cold["ratio"], 0.15),
        ]


def question_near(index: Path, checkpoint: Checkpoint, questions: Sequence[str], doc_tokens: int) -> str:
    """The question whose documents, at the service's defaults, come nearest to `doc_tokens` tokens."""
    config = ServeConfig(index=index)
    template = PromptTemplate.load(
        checkpoint, max_doc_tokens=config.max_doc_tokens, max_question_tokens=config.max_question_tokens
    )
    with Retriever.open(index) as retriever:

        def tokens(question: str) -> int:
            hits = retriever.search(question, config.top_k)
            return sum(len(template.document(hit.document)) for hit in hits)

        return min(questions, key=lambda question: abs(tokens(question) - doc_tokens))


async def _answer(service: RagService, question: str) -> Answer:
    async for event in service.ask(Query(question, max_tokens=1)):
        if isinstance(event, Answer):
            return event
    raise RuntimeError("the service ended without an answer")


class ServerBench:
    """A real server process: time to readiness, and memory through varied requests."""

    def __init__(self, index: Path, requests: int) -> None:
        self._index = index
        self._requests = requests
        self._device_cache = 512 * MIB

    def run(self, questions: Sequence[str], weights: int) -> tuple[dict[str, Any], list[Bound]]:
        command = [sys.executable, "-m", "ragcache", "serve", "--index", str(self._index / "faiss.idx")]
        command += ["--port", "18123", "--device-cache", str(self._device_cache), "--max-doc-tokens", "512"]
        begin = time.perf_counter()
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            with RagClient("http://127.0.0.1:18123") as client:
                ready = _wait_ready(client, server, begin)
                process = psutil.Process(server.pid)
                sizes = [process.memory_info().rss]
                for number in tqdm(range(self._requests), desc="memory", file=sys.stderr):
                    client.ask(questions[number * 7 % len(questions)], top_k=1 + number % 3, max_tokens=1 + number % 8)
                    sizes.append(process.memory_info().rss)
                evictions = client.get("/v1/cache")["tiers"]["device"]["evictions"]
        finally:
            server.terminate()
            status = server.wait()
        peak, quarter = max(sizes), max(1, self._requests // 4)
        allowed = weights + self._device_cache + 1536 * MIB
        row = {
            "ready_s": round(ready, 2),
            "requests": self._requests,
            "peak_rss_mib": peak >> 20,
            "rss_mib_by_quarter": [size >> 20 for size in sizes[::quarter]],
            "weights_mib": weights >> 20,
            "device_cache_mib": self._device_cache >> 20,
            "evictions": evictions,
            "exit_status": status,
        }
        return row, [
            Bound("seconds to /readyz on a built index", ready, 20.0),
            Bound("peak RSS in MiB, of weights + caches + 1.5 GiB", peak >> 20, allowed >> 20),
        ]


def _wait_ready(client: RagClient, server: subprocess.Popen[bytes], begin: float) -> float:
    while server.poll() is None:
        try:
            client.get("/readyz")
            return time.perf_counter() - begin
        except ServerError:
            time.sleep(0.05)
    raise RuntimeError("the server ended before it was ready")


def _machine(threads: int) -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        name = next(
            (line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line), name
        )
    return {
        "cpu": name,
        "cores": available_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_before": round(psutil.getloadavg()[0], 2),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints JSON; exit status 1 if a figure is over its bound."""
    parser = argparse.ArgumentParser(prog="python -m eval.bench", description=__doc__)
    parser.add_argument("--index", type=Path, help="folder of a built index (default: the demo's, built if missing)")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, help="JSON lines with id, question")
    parser.add_argument("--only", choices=("engine", "cached", "server"), action="append", help="may be repeated")
    parser.add_argument("--runs", type=int, default=5, help="pairs of timings for each figure (default: 5)")
    parser.add_argument(
        "--requests", type=int, default=200, help="requests sent while memory is watched (default: 200)"
    )
    options = parser.parse_args(arguments)
    threads = available_cores()
    torch.set_num_threads(1)  # parallel work is for the engine's thread and the plain process
    report: dict[str, Any] = {"machine": _machine(threads)}
    bounds: list[Bound] = []
    chosen = options.only or ["server", "engine", "cached"]
    try:
        index = options.index or demo_index()
        questions = [question.text for question in read_questions(options.questions)]
        checkpoint = Checkpoint.resolve("default")
        weights = sum(path.stat().st_size for path in Path(checkpoint.location).glob("*.safetensors"))
        for name in chosen:
            print(f"{name} ...", file=sys.stderr, flush=True)
            if name == "server":
                report[name], more = ServerBench(index, options.requests).run(questions, weights)
                bounds += more
                continue
            with TransformersProcess(checkpoint, threads) as plain:
                if name == "engine":
                    report[name], more = EngineBench(checkpoint, plain, options.runs, threads).run()
                else:
                    question = question_near(index, checkpoint, questions, DOCUMENT_TOKENS)
                    report[name], more = CachedBench(index, plain, options.runs, threads).run(question)
            bounds += more
    except (RagCacheError, RetrievalError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    report["figures"] = [bound.row() for bound in bounds]
    print(json.dumps(report, indent=2))
    return 0 if all(bound.row()["ok"] for bound in bounds) else 1


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.bench"))
