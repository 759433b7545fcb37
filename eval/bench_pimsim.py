"""How fast pimsim is on one core: `make bench-pimsim` prints a JSON line for each figure and its limit."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pimsim import (
    Attention,
    Controller,
    DimmDevice,
    Standard,
    Trace,
    Traversal,
    attention,
    simulate,
    simulate_search,
)
from pimsim.dimm_pim.traversal import LOWEST
from ragcache.console import streams

REQUESTS = 1_000_000
SEARCHES, VERTICES = 256, 100_000
LEAST_REQUESTS_PER_S = 2e6
MOST_SECOND_START_S = 2.0
MOST_LAYER_MS = {"event": 50.0, "closed": 0.05}


def least_time(call: Callable[[], object], times: int = 3, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of the fastest of some calls: what else the machine does only adds. By default, seconds of the core."""
    taken = []
    for _ in range(times):
        begin = clock()
        call()
        taken.append(clock() - begin)
    return min(taken)


def read_traces() -> dict[str, tuple[str, Trace]]:
    """By name: a standard and a million reads of each kind that the golden traces have."""
    rng = np.random.default_rng(0)
    number = np.arange(REQUESTS)
    together = np.zeros(REQUESTS, np.int64)
    traces = {}
    for name in ("ddr4-3200-heterrag", "hbm2-heterrag"):
        size = Standard.load(name).organisation
        places: dict[str, Any] = {
            "rank": rng.integers(0, size.ranks, REQUESTS),
            "bank_group": rng.integers(0, size.bank_groups, REQUESTS),
            "bank": rng.integers(0, size.banks, REQUESTS),
            "row": rng.integers(0, size.rows, REQUESTS),
            "column": rng.integers(0, size.columns, REQUESTS),
        }
        traces[f"{name} random, saturated"] = (name, Trace.of(cycle=together, **places))
        traces[f"{name} random, every 16 cycles"] = (name, Trace.of(cycle=number * 16, **places))
        row = number // size.columns
        traces[f"{name} stream in a bank"] = (
            name,
            Trace.of(cycle=together, row=row % size.rows, column=number % size.columns),
        )
        turns = number // 4
        traces[f"{name} stream over bank groups"] = (
            name,
            Trace.of(
                cycle=together,
                bank_group=number % 4,
                row=turns // size.columns % size.rows,
                column=turns % size.columns,
            ),
        )
        traces[f"{name} row conflicts in a bank"] = (name, Trace.of(cycle=together, row=number % size.rows))
    return traces


def dram() -> Iterator[dict[str, object]]:
    """Requests a second of each kind of read trace, after compilation."""
    for kind, (standard, trace) in read_traces().items():
        simulate(trace.where(np.arange(10)), standard, Controller())
        seconds = least_time(lambda standard=standard, trace=trace: simulate(trace, standard))  # type: ignore[misc]
        yield {"figure": f"requests/s, {kind}", "value": round(REQUESTS / seconds), "at_least": LEAST_REQUESTS_PER_S}


def trace_reading() -> Iterator[dict[str, object]]:
    """Lines a second of a gzipped trace."""
    line = "%d,R,0,1,3,2,48000,101\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.csv"
        text = "cycle,op,channel,rank,bg,bank,row,col\n" + "".join(line % cycle for cycle in range(REQUESTS))
        path.write_text(text, encoding="utf-8")
        subprocess.run(["gzip", str(path)], check=True)
        seconds = least_time(lambda: Trace.read(f"{path}.gz"))
    yield {"figure": "lines/s of a gzipped trace", "value": round(REQUESTS / seconds)}


def layer() -> Iterator[dict[str, object]]:
    """Milliseconds of one attention layer (2,048 tokens, 16 heads) at each level, after compilation."""
    for level in ("bank", "bg", "buffer"):
        for fidelity, most in MOST_LAYER_MS.items():
            one = Attention(length=2048, heads=16, head_dim=128, level=level, fidelity=fidelity)
            attention("hbm3-attacc", one)
            seconds = least_time(lambda one=one: attention("hbm3-attacc", one), 100)  # type: ignore[misc]
            yield {"figure": f"ms an attention layer, {level}, {fidelity}", "value": seconds * 1e3, "at_most": most}


def search() -> Iterator[dict[str, object]]:
    """Distances a second of an event-driven search: 32 queries at once, lists and instructions included."""
    rng = np.random.default_rng(0)
    hops, a_hop = 128 * SEARCHES, 11
    path = Traversal(
        queries=np.arange(SEARCHES),
        first_hop=np.arange(0, hops + 1, 128),
        list_vertex=rng.integers(0, VERTICES, hops),
        list_kind=np.full(hops, LOWEST),
        first_vector=np.arange(0, hops * a_hop + 1, a_hop),
        vertices=rng.zipf(1.3, hops * a_hop) % VERTICES,
        shard=VERTICES,
    )
    device = DimmDevice.load()
    simulate_search(path.first(1), device)
    seconds = least_time(lambda: simulate_search(path, device))
    yield {"figure": "distances/s of a search on acceldimm", "value": round(len(path.vertices) / seconds)}


def second_process() -> Iterator[dict[str, object]]:
    """Seconds of a whole `pimsim dram` over a small trace, once the compiled code is kept."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.csv"
        path.write_text("cycle,op,channel,rank,bg,bank,row,col\n0,R,0,0,0,0,0,0\n", encoding="utf-8")
        command = [sys.executable, "-m", "pimsim.cli", "dram", "--standard", "ddr4-3200-heterrag", "--trace", str(path)]
        first = least_time(lambda: subprocess.run(command, check=True, capture_output=True), 1, time.perf_counter)
        seconds = least_time(lambda: subprocess.run(command, check=True, capture_output=True), 3, time.perf_counter)
    yield {"figure": "s of a first process", "value": round(first, 2)}
    yield {"figure": "s of a second process", "value": round(seconds, 2), "at_most": MOST_SECOND_START_S}


# each yields its figures
FIGURES: tuple[Callable[[], Iterator[dict[str, object]]], ...] = (dram, trace_reading, layer, search, second_process)


def main() -> int:
    """Prints each figure as a line of JSON. Returns the exit status: 1 if a figure misses its limit, else 0."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    status = 0
    for figures_of in FIGURES:
        for figure in figures_of():
            value = figure["value"]
            assert isinstance(value, int | float)
            low, high = figure.get("at_least", value), figure.get("at_most", value)
            assert isinstance(low, int | float)
            assert isinstance(high, int | float)
            figure["held"] = low <= value <= high
            status |= not figure["held"]
            print(json.dumps(figure), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.bench_pimsim"))
