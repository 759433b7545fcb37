"""In-flight sharing in figures: what requests compute, and how long they wait, with and without it.

The default model answers a live stream here, half of which are questions that were first asked up to ten seconds
before. With --described it is replayed in virtual time on a CPU that is only described; with --ragpulse, RAGPulse's
requests are, on an A10G.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import platform
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.props.ragpulse import ragpulse_workload
from ragcache.cli.assembly.torch import assemble_replay
from ragcache.console import streams
from ragcache.errors import RagCacheError
from ragcache.replay.report import ReplayReport
from ragcache.replay.run import replay_service, simulate
from ragcache.replay.service import SimulatedSettings
from ragcache.replay.workload import TimedRequest, Workload

SYSTEM_TOKENS, QUESTION_TOKENS = 50, 20
OUTPUT_TOKENS = 8
SPEEDS = (10.0, 100.0, 300.0)  # times RAGPulse's own


def stream(requests: int, per_second: float, document_tokens: int, seed: int, within: float = 10.0) -> Workload:
    """Questions over two documents each, half of them new; the others repeat one that came `within` seconds before."""
    chance = random.Random(seed)
    sent: list[TimedRequest] = []
    time = 0.0
    for number in range((requests + 1) // 2):
        time += chance.expovariate(per_second / 2)
        documents = tuple((f"d{number}-{place}", document_tokens) for place in range(2))
        first = TimedRequest(time, documents, QUESTION_TOKENS, OUTPUT_TOKENS)
        sent += [first, dataclasses.replace(first, time=time + chance.uniform(0.0, within))]
    return Workload(tuple(sorted(sent, key=lambda request: request.time)[:requests]))


def live(workload: Workload, model: str, threads: int, *, share: bool) -> ReplayReport:
    """The report of a replay that the torch engine computes here, in real time."""
    settings = SimulatedSettings(hardware="this-cpu", model="smollm2-135m", max_batch=8, share_in_flight=share)
    service, cost, described = assemble_replay(
        settings, workload, model=model, system_tokens=SYSTEM_TOKENS, searches=None, seed=0, threads=threads
    )
    try:
        return asyncio.run(replay_service(workload, service, described, SYSTEM_TOKENS, cost))
    finally:
        service.close()


def virtual(workload: Workload, *, share: bool) -> ReplayReport:
    """The report of a replay on an A10G with Mistral-7B and 64 GiB of host memory for KV, in virtual time."""
    settings = SimulatedSettings(host_cache=64 * 2**30, share_in_flight=share)
    return simulate(workload, settings, system_tokens=SYSTEM_TOKENS)


def described(workload: Workload, *, share: bool) -> ReplayReport:
    """The report of a replay on a CPU as it is described, with the default model, in virtual time."""
    settings = SimulatedSettings(hardware="this-cpu", model="smollm2-135m", max_batch=8, share_in_flight=share)
    return simulate(workload, settings, system_tokens=SYSTEM_TOKENS)


def row(load: str, without: ReplayReport, sharing: ReplayReport) -> dict[str, Any]:
    """What two replays of one load differ in; times are seconds."""
    figures: dict[str, Any] = {"load": load, "requests": len(sharing.outcomes)}
    for name, report in (("without", without.as_dict()), ("sharing", sharing.as_dict())):
        figures[name] = {
            "answered": report["outcomes"].get("answered", 0),
            "prompt_tokens": report["tokens"]["prompt"],
            "computed_tokens": report["tokens"]["computed"],
            "shared_tokens": report["shared_tokens"],
            "ttft_mean": report["ttft"]["mean"],
            "ttft_p95": report["ttft"]["p95"],
        }
    return figures


def _rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if arguments.ragpulse is not None:
        for speed in arguments.speed:
            workload = ragpulse_workload(arguments.ragpulse, speed)
            yield row(f"RAGPulse, {speed:g} x", virtual(workload, share=False), virtual(workload, share=True))
        return
    workload = stream(arguments.requests, arguments.rate, arguments.tokens, arguments.seed, arguments.within)
    load = f"{arguments.rate:g} requests/s"
    if arguments.described:
        yield row(load, described(workload, share=False), described(workload, share=True))
        return
    model, threads = arguments.model, arguments.threads
    live(stream(2, 100.0, 8, 0, 0.1), model, threads, share=False)  # what is done once only
    yield row(f"{load}, live", live(workload, model, threads, share=False), live(workload, model, threads, share=True))


def _in_words(report: dict[str, Any]) -> str:
    lines = [f"{'load':<22}{'':<10}{'computed':>12}{'of tokens':>12}{'shared':>12}{'TTFT mean':>11}{'p95':>9}"]
    for figures in report["rows"]:
        for name in ("without", "sharing"):
            each = figures[name]
            lines.append(
                f"{figures['load'] if name == 'without' else '':<22}{name:<10}{each['computed_tokens']:>12,}"
                f"{each['prompt_tokens']:>12,}{each['shared_tokens']:>12,}{each['ttft_mean']:>10.2f}s"
                f"{each['ttft_p95']:>8.2f}s"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.bench_in_flight", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--ragpulse", type=Path, metavar="DIR", help="replay the trace in this folder, in virtual time")
    parser.add_argument(
        "--speed",
        type=float,
        nargs="+",
        default=SPEEDS,
        metavar="X",
        help="with --ragpulse, times its own (%(default)s)",
    )
    parser.add_argument(
        "--described", action="store_true", help="replay the stream in virtual time on a CPU that is only described"
    )
    parser.add_argument("--requests", type=int, default=200, metavar="N", help="of the stream (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=1.0, metavar="R", help="requests a second (default: %(default)s)")
    parser.add_argument(
        "--within", type=float, default=10.0, metavar="S", help="seconds in which half of them come again (%(default)s)"
    )
    parser.add_argument(
        "--tokens", type=int, default=250, metavar="N", help="of each of a question's two documents (%(default)s)"
    )
    parser.add_argument("--model", default="default", metavar="NAME", help="as `ragcache serve` takes it")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="torch threads (default: one for each core)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the stream (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        rows = list(_rows(arguments))
    except RagCacheError as error:
        print(error, file=sys.stderr)
        return 2
    report = {"machine": f"{platform.machine()}, Python {platform.python_version()}", "rows": rows}
    print(json.dumps(report, indent=2) if arguments.json else _in_words(report))
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.bench_in_flight"))
