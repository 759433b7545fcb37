"""The knowledge cache's own work in figures: time a request, memory a node, documents simulated a second."""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import statistics
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

from ragcache.cache.cache import KnowledgeCache
from ragcache.console import streams
from ragcache.cost import PolynomialCost
from ragcache.policy import POLICIES
from ragcache.simulate.simulation import SIMULATED, Simulation
from ragcache.simulate.trace import Trace
from ragcache.tree.segment import Segment

_COST = PolynomialCost(50, 0.01)
_KV = (True, True)


class _Questions:
    """Paths of two documents. Half repeat one of the last `remembered`, the others are drawn from a skewed corpus.

    The mix of hits, misses and evictions is thus much the same whatever the size. Tokens are shared by all that use a
    document.
    """

    def __init__(self, documents: int, remembered: int, seed: int = 0) -> None:
        self._chance = random.Random(seed)
        self._remembered = remembered
        self._past: list[tuple[Segment, Segment]] = []
        self._documents = [
            Segment(f"d{number}", range(100 + number % 900), number.to_bytes(16, "little"))
            for number in range(documents)
        ]

    def __iter__(self) -> Iterator[tuple[Segment, Segment]]:
        past, chance, count = self._past, self._chance.random, len(self._documents)
        while True:
            if past and chance() < 0.5:
                yield past[int(len(past) * chance())]
                continue
            path = self._documents[int(count * chance() ** 2)], self._documents[int(count * chance())]
            if len(past) < self._remembered:
                past.append(path)
            else:
                past[int(len(past) * chance())] = path
            yield path


def _user_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def _filled(policy: str, nodes: int) -> tuple[KnowledgeCache, Iterator[tuple[Segment, Segment]]]:
    """A full cache of about `nodes` nodes, which evicts at most misses, and the questions that filled it."""
    questions = iter(_Questions(nodes // 2, nodes // 8))
    tokens = nodes * 500
    cache = KnowledgeCache(tokens, 1, POLICIES[policy](tokens), cost=_COST)
    while not cache.counts.evictions:
        _serve(cache, next(questions))
    for _ in range(nodes // 4):  # until the policies' queues are in order
        _serve(cache, next(questions))
    return cache, questions


def _serve(cache: KnowledgeCache, path: tuple[Segment, Segment]) -> None:
    lease = cache.lease(path, 50)
    assert lease is not None
    with lease:
        lease.commit(_KV[lease.cached :])


def controller(policy: str, nodes: int, requests: int = 20_000) -> dict[str, Any]:
    """Microseconds that look-up, lease, update, eviction, commit and release take for each request."""
    cache, questions = _filled(policy, nodes)
    paths = [next(questions) for _ in range(requests)]
    hits, evictions = cache.counts.hits, cache.counts.evictions
    times = []
    user = _user_seconds()
    for path in paths:
        start = time.perf_counter()
        _serve(cache, path)
        times.append(time.perf_counter() - start)
    user = _user_seconds() - user
    cache.check_integrity()
    times.sort()
    return {
        "policy": policy,
        "nodes": len(cache.tree),
        "mean_us": round(statistics.fmean(times) * 1e6, 2),
        "user_mean_us": round(user / requests * 1e6, 2),
        "median_us": round(times[requests // 2] * 1e6, 2),
        "p99_us": round(times[requests * 99 // 100] * 1e6, 2),
        "hit_ratio": round((cache.counts.hits - hits) / (2 * requests), 3),
        "evictions_per_request": round((cache.counts.evictions - evictions) / requests, 2),
    }


def overhead(policy: str, nodes: int = 20_000) -> dict[str, Any]:
    """Bytes that a node takes besides its KV and its document's tokens."""
    questions = iter(_Questions(nodes // 2, nodes // 8))
    tracemalloc.start()
    cache = KnowledgeCache(nodes * 10**4, 1, POLICIES[policy](nodes * 500), cost=_COST)
    before = tracemalloc.get_traced_memory()[0]
    while len(cache.tree) < nodes:
        _serve(cache, next(questions))
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {"policy": policy, "nodes": len(cache.tree), "bytes_per_node": round((after - before) / len(cache.tree))}


def replays(policy: str, depth: int, documents: int = 60_000) -> dict[str, Any]:
    """Documents that `simulate` replays in a second of one core."""
    chance = random.Random(1)
    trace = Trace()
    for _ in range(documents // depth):
        names = [int(2000 * chance.random() ** 3) for _ in range(depth)]
        trace.add([(str(name), 64 + name * 7 % 1000) for name in names])
    simulation = Simulation(trace, _COST)
    simulation.run(policy, 1000)  # warm; Belady's future is prepared once for all capacities
    user = _user_seconds()
    outcome = simulation.run(policy, 100_000)
    user = _user_seconds() - user
    return {
        "policy": policy,
        "depth": depth,
        "documents_per_second": round(trace.documents / user),
        "hit_ratio": round(outcome.hit_ratio, 3),
    }


def _in_words(report: dict[str, Any]) -> str:
    lines = ["controller time a request, path of 2"]
    lines += [
        f"  {row['policy']:<9}{row['nodes']:>7,} nodes, mean {row['mean_us']:>5.1f} µs user {row['user_mean_us']:>5.1f}"
        f"  p99 {row['p99_us']:>6.1f} µs  hits {row['hit_ratio']:.0%}  evictions {row['evictions_per_request']:.2f}"
        for row in report["controller"]
    ]
    lines += ["overhead a node"]
    lines += [f"  {row['policy']:<9} {row['bytes_per_node']:>5} bytes" for row in report["overhead"]]
    lines += ["documents simulated a second of one core"]
    lines += [
        f"  {row['policy']:<9} paths of {row['depth']}  {row['documents_per_second']:>9,}" for row in report["simulate"]
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.bench_cache", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--policy", default=",".join(SIMULATED), metavar="P[,P…]", help="default: all")
    arguments = parser.parse_args(argv)
    policies = arguments.policy.split(",")
    if unknown := [name for name in policies if name not in SIMULATED]:
        parser.error(f"unknown policy {unknown[0]!r}; known are {', '.join(SIMULATED)}")
    served = [name for name in policies if name in POLICIES]
    report = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "controller": [controller(name, nodes) for name in served for nodes in (1_000, 100_000)],
        "overhead": [overhead(name) for name in served],
        "simulate": [replays(name, depth) for name in policies for depth in (1, 6)],
    }
    print(json.dumps(report, indent=2) if arguments.json else _in_words(report))
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.bench_cache"))
