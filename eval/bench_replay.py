"""Replay in figures: requests simulated in a second of one core, and the time that scheduling takes of each."""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from ragcache.cache.cache import KnowledgeCache
from ragcache.console import streams
from ragcache.engine.simulated.hardware import HARDWARE
from ragcache.replay.finder import SimulatedFinder
from ragcache.replay.pim_machine import PimMachine
from ragcache.replay.run import replay_service
from ragcache.replay.search_profile import SearchProfile
from ragcache.replay.searches import SearchesTogether
from ragcache.replay.service import SimulatedService, SimulatedSettings
from ragcache.replay.virtual_time import run_virtual
from ragcache.replay.workload import TimedRequest, Workload
from ragcache.schedule.admission import AdmissionQueue

LEAST = 1000.0  # requests a second of process time
MOST_SCHEDULING = 0.001  # seconds a request
SYSTEM_TOKENS = 50
# requests a second for an A10G with Mistral-7B: hardly any request waits, or nearly all do
LOADS = {"light": 1.0, "overload": 200.0}
WAITING = 1000  # least number of requests that wait in the overload
_SEARCHES = SearchProfile(
    index_type="ivf",
    vectors=100_000,
    dim=384,
    effort=32,
    k=2,
    machine="made up",
    measured_at="",
    stage_seconds=(0.001, 0.001, 0.001, 0.001),
    lists=(
        ((0, 1),) * 4,
        ((-1, 0), (0, 1), (0, 1), (0, 1)),
        ((-1, -2), (0, -1), (1, 0), (0, 1)),
    ),
)


def workload(requests: int, per_second: float, documents: int = 2000, seed: int = 0) -> Workload:
    """Pairs of documents, some much more popular than others, at random times."""
    chance = random.Random(seed)
    requested = []
    for _ in range(requests):
        first, second = int(documents * chance.random() ** 3), int(documents * chance.random() ** 2)
        pair = (first, second if second != first else documents)
        sizes = tuple((f"d{document}", 200 + document * 7 % 800) for document in pair)
        requested.append(TimedRequest(0.0, sizes, 20, chance.randint(1, 12)))
    return Workload(tuple(requested)).with_rate(per_second, seed)


class _Stopwatch:
    """Adds up the time of calls. A call within another counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def on(self, owner: type, name: str) -> Callable[[], None]:
        """Times the method `owner.name` from now on. Returns a function that stops it."""
        method = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            if self._depth:
                return method(*arguments, **options)
            self._depth += 1
            begin = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - begin
                self._depth -= 1

        setattr(owner, name, timed)
        return lambda: setattr(owner, name, method)


_SCHEDULING = (
    (AdmissionQueue, "advance"), (AdmissionQueue, "admit_now"), (AdmissionQueue, "leave"),
    (KnowledgeCache, "commit"), (KnowledgeCache, "end"),
)  # fmt: skip


def replayed(load: str, requests: int, hardware: str, *, timed: bool) -> dict[str, Any]:
    """The row of one replay. With `timed` it has the time of queue and cache, and the replay takes longer."""
    asked = workload(requests, LOADS[load])
    machine = None if hardware in HARDWARE else PimMachine.load(hardware)
    searches = _SEARCHES if machine is None else SearchesTogether(machine)
    finder = SimulatedFinder(asked, system_tokens=SYSTEM_TOKENS, searches=searches)
    settings = SimulatedSettings(hardware=hardware, speculate=True, host_cache=64 * 2**30)
    longest = max(each.output for each in asked.requests)
    simulated = SimulatedService(settings, finder, longest_answer=longest, machine=machine)
    stopwatch = _Stopwatch()
    restore = [stopwatch.on(owner, name) for owner, name in _SCHEDULING] if timed else []
    begin = time.process_time()
    try:
        report = run_virtual(replay_service(asked, simulated.service, {}, SYSTEM_TOKENS, simulated.cost))
    finally:
        for each in restore:
            each()
    seconds = time.process_time() - begin
    totals = report.as_dict()
    return {
        "load": load,
        "requests": requests,
        "most_in_flight": totals["queueing"]["most_in_flight"],
        "requests_per_second": round(requests / seconds, 1),
        "scheduling_us": round(stopwatch.seconds / requests * 1e6, 1),
        "document_ratio": totals["hits"]["document_ratio"],
        "speculations": totals["speculation"]["started"],
        "answered": totals["outcomes"].get("answered", 0),
    }


def measure(load: str, requests: int, hardware: str) -> dict[str, Any]:
    """The row of a load. Speed is measured undisturbed, the time of scheduling in a second replay."""
    row = replayed(load, requests, hardware, timed=False)
    row["scheduling_us"] = replayed(load, requests, hardware, timed=True)["scheduling_us"]
    row["ok"] = row["requests_per_second"] >= LEAST and row["scheduling_us"] <= MOST_SCHEDULING * 1e6
    return row


def _in_words(report: dict[str, Any]) -> str:
    lines = [
        f"replays of {report['requests']:,} requests on {report['hardware']}, host cache, searches and speculation",
        f"  at least {LEAST:,.0f} a second of process time, scheduling at most {MOST_SCHEDULING * 1e6:,.0f} µs of each",
    ]
    lines += [
        f"  {row['load']:<9}{row['requests_per_second']:>9,.0f} requests/s  scheduling {row['scheduling_us']:>6.1f} µs"
        f"  at most {row['most_in_flight']:>6,} in flight  documents found {row['document_ratio']:.0%}  "
        f"{'ok' if row['ok'] else 'TOO SLOW'}"
        for row in report["rows"]
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.bench_replay", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--requests", type=int, default=20_000, metavar="N", help="requests of each replay (default: %(default)s)"
    )
    parser.add_argument("--hardware", default="a10g", metavar="NAME", help="as `ragcache replay` takes it")
    arguments = parser.parse_args(argv)
    if arguments.requests < 2 * WAITING:
        parser.error(f"--requests must be at least {2 * WAITING}, so that {WAITING} can wait")
    report = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "requests": arguments.requests,
        "hardware": arguments.hardware,
        "rows": [measure(load, arguments.requests, arguments.hardware) for load in LOADS],
    }
    print(json.dumps(report, indent=2) if arguments.json else _in_words(report))
    return 0 if all(row["ok"] for row in report["rows"]) else 1


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.bench_replay"))
