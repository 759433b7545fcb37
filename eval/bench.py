"""The figures of the embedded engine and its cache, as JSON: each a ratio to plain `transformers` in the same run.

Beside busy processes, which it starts itself, the ratios are to the same work on the quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from eval.bench_busy import BusyBench
from eval.demo_corpus import demo_index
from eval.props.bound import Bound, paired
from eval.props.question_set import read_questions
from eval.props.timed_engine import TimedEngine, random_ids, segments
from eval.props.transformers_process import TransformersProcess
from ragcache.cli.assembly.torch import assemble
from ragcache.cli.config import ServeConfig
from ragcache.console import streams
from ragcache.engine.cores import available_cores
from ragcache.engine.torch.model import TorchModel
from ragcache.errors import RagCacheError
from ragcache.model.checkpoint import Checkpoint
from ragcache.prompt.template import PromptTemplate
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
PARTS = ("server", "engine", "cached", "busy")


def _ttft(answer: Answer) -> float:
    """Time to first token, in seconds."""
    return answer.timing.ttft_ms / 1000


class EngineBench:
    """Prefill and decode of the torch engine beside the plain forward over the same tokens."""

    def __init__(self, checkpoint: Checkpoint, plain: TransformersProcess, runs: int, threads: int) -> None:
        self._runs = runs
        self._plain = plain
        self._engine = TimedEngine(TorchModel.load(checkpoint), threads)

    def run(self) -> tuple[dict[str, Any], list[Bound]]:
        timings: dict[str, Any] = {"prefill": {}, "decode": {}}
        bounds = []
        try:
            for n in LENGTHS:
                tokens = [token for part in segments(n) for token in part]
                prefill = paired(partial(self._engine.prefill, n), partial(self._plain.prefill, tokens), self._runs)
                decode = paired(
                    partial(self._engine.decode, n, DECODE_STEPS),
                    partial(self._plain.decode, tokens, DECODE_STEPS),
                    self._runs,
                )
                timings["prefill"][n], timings["decode"][n] = prefill, decode
                bounds.append(Bound(f"prefill of {n} tokens / plain forward", prefill["ratio"], 1.10))
                bounds.append(Bound(f"decode after {n} tokens / plain, a token", decode["ratio"], 1.15))
        finally:
            self._engine.close()
        return timings, bounds


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
    parser.add_argument("--only", choices=PARTS, action="append", help="may be repeated")
    parser.add_argument("--runs", type=int, default=5, help="pairs of timings for each figure (default: 5)")
    parser.add_argument(
        "--requests", type=int, default=200, help="requests sent while memory is watched (default: 200)"
    )
    options = parser.parse_args(arguments)
    threads = available_cores()
    torch.set_num_threads(1)  # parallel work is for the engine's thread and the plain process
    report: dict[str, Any] = {"machine": _machine(threads)}
    bounds: list[Bound] = []
    chosen = options.only or PARTS
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
            if name == "busy":
                report[name], more = BusyBench(checkpoint, options.runs, threads).run()
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
