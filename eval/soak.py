"""Soak: a live server under a mixed load for minutes: no error, no growth of memory, and how long its answers took.

Clients ask about documents, some of which are far more popular than others, for one to three at a time, as a whole or
as a stream, greedily or with random draws; some hang up, some give their question too little time. Meanwhile the
server's memory is sampled. Times are the server's own, from a request's arrival.

What must not grow is the server's *own* memory: what is resident (RSS), less the KV that its cache accounts for, and
less the pages of files. The cache takes all that it was given, and at a low rate it is not full for minutes. That
its books balance and nothing is held in the end is checked separately. The disk cache's file is mapped, so that its
pages count as resident once they were read, but the system can take them back at any time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from tqdm import tqdm

from eval.props.crowd import Crowd, Request, Visit
from eval.props.idle_server import cache_state, come_to_rest
from eval.props.index_options import add_index_options, opened_index
from eval.props.question_set import QuestionError, read_questions
from eval.props.server_process import ServerDied, ServerProcess, arguments_for
from ragcache.cli.config import ServeConfig
from ragcache.console import streams
from ragcache.errors import RagCacheError
from retrieval.errors import RetrievalError
from retrieval.index import DOCUMENTS_FOLDER
from retrieval.store import DocumentStore

SKEW = 1.1  # the n-th most popular document is asked for 1 / n^SKEW times as often as the first
MOST_DOCUMENTS = 3  # that a question asks for
STREAM_SHARE = 0.5
HANG_UP_SHARE = 0.08
TIMEOUT_SHARE = 0.08
CHANCE_SHARE = 0.2  # of the requests are not greedy
LONGEST_HANG_UP = 2.0  # seconds
LONGEST_TIMEOUT_MS = 500
SAMPLE_SECONDS = 2.0
LEAST_SAMPLES = 9  # below, thirds say nothing
# Own memory has not grown if the last third's median exceeds the middle third's by no more than this. In the first
# third, buffers reach their size. A step's buffers come and go by some MiB, and the allocator keeps what is fragmented,
# so a smaller difference may be chance. A loss of 200 KiB with each of one request a second shows within 10 minutes.
ALLOWED_SHARE, ALLOWED_BYTES = 0.02, 16 << 20


@dataclass(slots=True)
class Report:
    """What the soak showed. `rss` and `own` are bytes, every SAMPLE_SECONDS. Times are milliseconds of answered
    requests; `tpot` is the mean time between two tokens of an answer. `problems` say what is wrong."""

    minutes: float
    rate: float
    clients: int
    seed: int
    seconds: float = 0.0
    interrupted: bool = False
    outcomes: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    ttft: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def growth(self) -> tuple[float, float] | None:
        """Bytes by which own memory's median grew from the middle third to the last, and the bytes allowed.

        None if there are too few samples.
        """
        count = len(self.own)
        if count < LEAST_SAMPLES:
            return None
        middle = statistics.median(self.own[count // 3 : 2 * count // 3])
        last = statistics.median(self.own[2 * count // 3 :])
        return last - middle, max(ALLOWED_BYTES, ALLOWED_SHARE * middle)

    def judge_growth(self) -> None:
        """Adds a problem if memory grew by more than is allowed."""
        growth = self.growth()
        if growth is not None and growth[0] > growth[1]:
            self.problems.append(f"memory grew by {_mib(growth[0])}, {_mib(growth[1])} may be chance")

    def as_json(self) -> str:
        growth = self.growth()
        values: dict[str, Any] = {name: getattr(self, name) for name in Report.__slots__}
        values |= {name: _percentiles(getattr(self, name)) for name in ("ttft", "total", "tpot")}
        values["growth"] = None if growth is None else {"bytes": growth[0], "allowed": growth[1]}
        return json.dumps(values, indent=2)

    def in_words(self) -> str:
        ended = ", ".join(f"{count:,} {name}" for name, count in sorted(self.outcomes.items())) or "none"
        sources = ", ".join(f"{count:,} {name}" for name, count in sorted(self.tokens.items())) or "none"
        cut = " (interrupted)" if self.interrupted else ""
        lines = [
            f"{self.seconds:.0f} s{cut}, {self.clients} clients, {self.rate:g} requests a second wanted, "
            f"{self.outcomes.total() / max(self.seconds, 1e-9):.2f} had; seed {self.seed}",
            f"requests: {ended}",
            f"prompt tokens: {sources}",
            f"  {'milliseconds':<24}{'p50':>10}{'p95':>10}{'p99':>10}",
        ]
        for name, values in (
            ("time to first token", self.ttft),
            ("total", self.total),
            ("per output token", self.tpot),
        ):
            cells = [f"{value:,.0f}" for value in _percentiles(values).values()] or ["-"] * 3
            lines.append(f"  {name:<24}" + "".join(f"{cell:>10}" for cell in cells))
        if self.rss:
            growth = self.growth()
            verdict = "too short to judge" if growth is None else f"{_mib(growth[0])}, {_mib(growth[1])} may be chance"
            lines.append(
                f"memory: {_mib(self.rss[0])} at first, {_mib(statistics.median(self.rss))} median, "
                f"{_mib(max(self.rss))} at most, {_mib(self.rss[-1])} at last"
            )
            lines.append(
                f"  without KV and files: {_mib(self.own[0])} at first, {_mib(self.own[-1])} at last; "
                f"growth from the middle third to the last: {verdict}"
            )
        return "\n".join([*lines, *(f"PROBLEM: {problem}" for problem in self.problems)])


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{percent}": round(float(np.percentile(values, percent)), 1) for percent in (50, 95, 99)}


def mixed_requests(questions: Sequence[str], rate: float, most_tokens: int, seed: int) -> Iterator[Request]:
    """An endless mixed load: Poisson arrivals, `rate` a second. The first question is the most popular, and so on."""
    rng = random.Random(seed)
    weights = list(accumulate((rank + 1) ** -SKEW for rank in range(len(questions))))
    most_documents = min(MOST_DOCUMENTS, len(questions))
    arrival = 0.0
    while True:
        arrival += rng.expovariate(rate)
        question = questions[min(bisect(weights, rng.random() * weights[-1]), len(questions) - 1)]
        body: dict[str, Any] = {
            "question": question,
            "top_k": rng.randint(1, most_documents),
            "max_tokens": rng.randint(1, most_tokens),
            "stream": rng.random() < STREAM_SHARE,
        }
        if rng.random() < CHANCE_SHARE:
            body |= by_chance(rng)
        manner = rng.random()
        if manner < HANG_UP_SHARE:
            yield Request(body, arrival, hang_up=rng.uniform(0.001, LONGEST_HANG_UP))
        elif manner < HANG_UP_SHARE + TIMEOUT_SHARE:
            yield Request({**body, "timeout_ms": rng.randint(1, LONGEST_TIMEOUT_MS)}, arrival)
        else:
            yield Request(body, arrival)


def by_chance(rng: random.Random) -> dict[str, Any]:
    """The fields of a request that is not greedy."""
    return {
        "temperature": rng.choice((0.3, 0.8, 1.2)),
        "top_p": rng.choice((0.5, 0.9, 1.0)),
        "seed": rng.randrange(1000),
        "stop": ["\n\n"],
    }


def own_bytes(memory: Any, cache: Mapping[str, Any]) -> int:
    """Resident bytes less files' pages and the KV in host memory. `memory` is psutil's, `cache` of `GET /v1/cache`."""
    in_memory = ("host",) if torch.cuda.is_available() else ("device", "host")
    tiers = [tier["bytes"] for name, tier in cache["tiers"].items() if name in in_memory]
    # psutil has files' pages ("shared") on Linux only
    return int(memory.rss - getattr(memory, "shared", 0) - sum(size["cached"] + size["held"] for size in tiers))


class Soak:
    """Sends the load to a server and keeps the report."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def hold(self, visit: Visit) -> None:
        """Counts how a request ended, and adds what is wrong with it to the problems."""
        report, body, answer = self.report, visit.request.body, visit.answer
        report.outcomes[visit.outcome] += 1
        if visit.outcome in ("failed", "refused") or (visit.outcome == "expired" and "timeout_ms" not in body):
            report.problems.append(f"{body}: {visit.problem}")
        if answer is None:
            return
        usage, timing = answer["usage"], answer["timing"]
        report.tokens.update({"computed": usage["computed_tokens"], **usage["cached_tokens"]})
        report.ttft.append(timing["ttft_ms"])
        report.total.append(timing["total_ms"])
        if usage["completion_tokens"] > 1:
            report.tpot.append((timing["total_ms"] - timing["ttft_ms"]) / (usage["completion_tokens"] - 1))

    def run(self, url: str, pid: int, requests: Iterator[Request]) -> None:
        """Asks for as long as the report says, then lets the server come to rest; Ctrl-C ends it sooner."""
        report, server, begin = self.report, psutil.Process(pid), time.monotonic()
        seconds = report.minutes * 60
        crowd = Crowd(url, requests, report.clients, self.hold)
        try:
            with tqdm(total=round(seconds), unit="s", file=sys.stderr, leave=False, mininterval=1.0) as bar:
                while (passed := time.monotonic() - begin) < seconds:
                    memory = server.memory_info()
                    report.rss.append(memory.rss)
                    report.own.append(own_bytes(memory, cache_state(url)))
                    bar.n = round(passed)
                    bar.set_postfix_str(
                        f"{report.outcomes.total()} requests, {len(report.problems)} problems, {_mib(report.rss[-1])}"
                    )
                    time.sleep(min(SAMPLE_SECONDS, max(0.0, seconds - passed)))
            report.seconds = time.monotonic() - begin
            crowd.leave()
            crowd.join()
            report.problems += come_to_rest(url).problems
        except (psutil.NoSuchProcess, httpx.TransportError):
            report.problems.append("the server is gone")
        except KeyboardInterrupt:
            crowd.leave()
            report.interrupted = True
        report.seconds = report.seconds or time.monotonic() - begin
        report.judge_growth()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if there was an error or growth, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=1.0, metavar="R", help="requests a second (default: 1)")
    parser.add_argument("--clients", type=int, default=16, metavar="N", help="most requests at a time (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of questions, times and manners (default: %(default)s)")
    parser.add_argument("--questions", type=Path, help="JSON lines with id, question (default: one a document)")
    parser.add_argument("--max-tokens", type=int, default=24, metavar="N")
    add_index_options(parser, device_cache="64MiB", host_cache="64MiB", disk_cache="64MiB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if not (options.minutes > 0 and options.rate > 0 and options.clients >= 1):
        parser.error("--minutes and --rate must be above 0, --clients at least 1")
    report = Report(options.minutes, options.rate, options.clients, options.seed)
    try:
        with opened_index(options, "soak") as (folder, index):
            _run(options, folder, index, report)
    except (RagCacheError, RetrievalError, QuestionError, ServerDied, httpx.HTTPError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        report.interrupted = True
    print(report.as_json() if options.json else report.in_words())
    return 130 if report.interrupted else 1 if report.problems else 0


def _run(options: argparse.Namespace, folder: Path, index: Path, report: Report) -> None:
    questions = _questions(options, index)
    config = ServeConfig(
        index=index,
        model=options.model,
        max_doc_tokens=options.max_doc_tokens,
        max_question_tokens=64,
        max_tokens=options.max_tokens,
        max_waiting=options.clients,  # no request is refused
        device_cache=options.device_cache,
        host_cache=options.host_cache,
        disk_cache=f"{folder / 'kv'}:{options.disk_cache}",
        threads=options.threads,
    )
    with ServerProcess(arguments_for(config), folder / "server.log") as server:
        url, _ = server.wait_ready()
        requests = mixed_requests(questions, options.rate, options.max_tokens, options.seed)
        Soak(report).run(url, server.process.pid, requests)
        if report.interrupted:
            return
        server.terminate()
        if status := server.wait():
            report.problems.append(f"the server ended with status {status}")
        if "Traceback" in server.said:
            report.problems.append(f"the server said: {server.said.strip()}")


def _questions(options: argparse.Namespace, index: Path) -> list[str]:
    """The questions in random order, the most popular first."""
    if options.questions is not None:
        texts = [question.text for question in read_questions(options.questions)]
    else:
        with DocumentStore.open(index / DOCUMENTS_FOLDER) as store:
            names = [store.get(row).title or store.get(row).id for row in range(len(store))]
        texts = [f"What should one know of {name[:100]}?" for name in names]
    random.Random(options.seed).shuffle(texts)
    return texts


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.soak"))
