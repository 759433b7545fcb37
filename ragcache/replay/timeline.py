"""Timeline: a replay's requests as a chrome trace, for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ragcache.replay.replay import Outcome, Served
from ragcache.whole_file import written_whole

_PROCESS = 1


def write_timeline(file: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes the trace, whole or not at all; equal outcomes give equal bytes.

    Each request has a lane while it is in the system. The lane shows its search, queue, prefill and decode, or one span
    that says how it ended without an answer. A counter shows how many are in the system. Times are microseconds.
    """
    events = [
        {"ph": "M", "name": "process_name", "pid": _PROCESS, "args": {"name": "ragcache replay"}},
        *_spans(outcomes),
        *_counts(outcomes),
    ]
    with written_whole(file) as unfinished:
        unfinished.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")


def _spans(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    free: list[int] = []  # lanes
    busy: list[tuple[float, int]] = []
    lanes = 0
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.arrived, outcome.number)):
        while busy and busy[0][0] <= outcome.arrived:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lanes += 1
            lane = lanes
        heapq.heappush(busy, (outcome.ended, lane))
        name = f"request {outcome.number + 1}"
        if outcome.served is None:
            yield _span(f"{name}: {outcome.how}", lane, outcome.arrived, outcome.ended, {"message": outcome.message})
        else:
            yield from _phases(name, lane, outcome.arrived, outcome.ended, outcome.served)


def _phases(name: str, lane: int, arrived: float, ended: float, served: Served) -> Iterator[dict[str, Any]]:
    about = {
        "request": name,
        "prompt_tokens": served.prompt_tokens,
        "computed_tokens": served.computed_tokens,
        "output_tokens": served.output_tokens,
        "speculation_used": served.speculation_used,
    }
    begin = arrived
    for phase, end in (
        ("search", arrived + served.search),
        ("queue", arrived + served.search + served.queue),
        ("prefill", arrived + served.search + served.queue + served.prefill),
        ("decode", arrived + served.total),
    ):
        end = min(end, ended)  # the service's times are rounded, and another request may have the lane from there on
        if end > begin:
            yield _span(phase, lane, begin, end, about)
            begin = end
    if served.search_overlap > 0:
        end = min(arrived + served.search, ended)
        yield _span("speculative prefill", lane, max(arrived, end - served.search_overlap), end, about)


def _span(name: str, lane: int, begin: float, end: float, about: dict[str, Any]) -> dict[str, Any]:
    start = round(begin * 1e6, 3)
    length = round(end * 1e6, 3) - start
    return {
        "ph": "X", "name": name, "cat": "request", "pid": _PROCESS, "tid": lane,
        "ts": start, "dur": round(length, 3), "args": about,
    }  # fmt: skip


def _counts(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    changes = sorted([(o.arrived, 1) for o in outcomes] + [(o.ended, -1) for o in outcomes])
    inside = 0
    for number, (time, change) in enumerate(changes, 1):
        inside += change
        if number == len(changes) or changes[number][0] > time:
            yield {
                "ph": "C",
                "name": "requests",
                "pid": _PROCESS,
                "ts": round(time * 1e6, 3),
                "args": {"in the system": inside},
            }
