"""The chrome trace of a replay: spans that do not overlap but nest, and a counter that ends where it began."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcache.replay.replay import Outcome, Served
from ragcache.replay.timeline import write_timeline
from tests.props.budget import examples
from tests.props.small_replays import replayed, searches, workload

ROUNDED = 0.002  # microseconds: each end of a span to a thousandth


def served(search: float, overlap: float, queue: float, prefill: float, decode: float) -> Served:
    ttft = search + queue + prefill
    return Served(ttft, ttft + decode, search, overlap, queue, prefill, 9, 9, 0, 0, 0, 2, 1, 0, 1, overlap > 0, 0)


def events_of(file: Path) -> list[dict[str, Any]]:
    trace = json.loads(file.read_text(encoding="utf-8"))
    assert trace["displayTimeUnit"] == "ms"
    return trace["traceEvents"]


def check(events: list[dict[str, Any]]) -> None:
    """What chrome://tracing needs to show it right."""
    lanes = defaultdict(list)
    counts = []
    for event in events:
        assert event["pid"] == 1
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            lanes[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "C":
            counts.append((event["ts"], event["args"]["in the system"]))
        else:
            assert event["ph"] == "M"
    for spans in lanes.values():
        open_until: list[float] = []
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= begin + ROUNDED:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + ROUNDED, "spans of a lane overlap"
            open_until.append(end)
    assert counts == sorted(counts, key=lambda count: count[0])
    assert all(count >= 0 for _, count in counts)
    assert not counts or counts[-1][1] == 0


def test_a_request_shows_its_phases(tmp_path):
    first = Outcome(0, 1.0, 1.75, "answered", served(0.25, 0.0, 0.125, 0.125, 0.25))
    guessed = Outcome(1, 1.5, 2.25, "answered", served(0.5, 0.25, 0.0, 0.125, 0.125))
    write_timeline(tmp_path / "t.json", [first, guessed, Outcome(2, 3.0, 3.5, "expired", None, "too late")])
    events = events_of(tmp_path / "t.json")
    check(events)
    spans = [(e["name"], e["tid"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    assert spans == [
        ("search", 1, 1_000_000, 250_000),
        ("queue", 1, 1_250_000, 125_000),
        ("prefill", 1, 1_375_000, 125_000),
        ("decode", 1, 1_500_000, 250_000),
        ("search", 2, 1_500_000, 500_000),  # beside the first one's decode
        ("prefill", 2, 2_000_000, 125_000),
        ("decode", 2, 2_125_000, 125_000),
        ("speculative prefill", 2, 1_750_000, 250_000),
        ("request 3: expired", 1, 3_000_000, 500_000),  # the lanes are free again
    ]
    assert events[1]["args"]["request"] == "request 1"
    assert events[-1 - 6]["args"] == {"message": "too late"}
    counts = [(e["ts"], e["args"]["in the system"]) for e in events if e["ph"] == "C"]
    assert counts == [(1e6, 1), (1.5e6, 2), (1.75e6, 1), (2.25e6, 0), (3e6, 1), (3.5e6, 0)]


def test_equal_outcomes_give_equal_bytes_and_none_an_empty_trace(tmp_path):
    outcomes = [Outcome(0, 0.1, 0.1, "overloaded", None, "full"), Outcome(1, 0.1, 0.1, "overloaded", None, "full")]
    for name in ("a", "b"):
        write_timeline(tmp_path / name, outcomes)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    check(events_of(tmp_path / "a"))
    write_timeline(tmp_path / "none", [])
    assert [event["ph"] for event in events_of(tmp_path / "none")] == ["M"]


def test_a_span_ends_with_its_request_although_its_times_are_rounded(tmp_path):
    # the service rounds to microseconds, and the next one takes the lane when this one has ended
    rounded = served(0.0, 0.0, 0.0, 0.0, 0.000001)
    outcomes = [Outcome(0, 0.0, 0.0000006, "answered", rounded), Outcome(1, 0.0000006, 0.000002, "failed", None, "x")]
    write_timeline(tmp_path / "t.json", outcomes)
    check(events_of(tmp_path / "t.json"))


seconds = st.sampled_from([0.0, 0.000001, 0.1, 0.37, 1.0])


@settings(max_examples=examples(60), deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from(["answered", "overloaded", "failed"]), seconds, seconds, seconds),
        max_size=25,
    )
)
def test_any_outcomes_make_a_trace(tmp_path_factory, requests):
    outcomes = []
    for number, (arrived, how, search, prefill, decode) in enumerate(sorted(requests, key=lambda each: each[0])):
        answer = served(search, search / 2, 0.0, prefill, decode) if how == "answered" else None
        ended = arrived + (search if answer is None else answer.total)
        outcomes.append(Outcome(number, float(arrived), ended, how, answer))
    file = tmp_path_factory.mktemp("traces") / "t.json"
    write_timeline(file, outcomes)
    check(events_of(file))
    assert sum(event["name"].startswith("request ") for event in events_of(file)) == sum(
        outcome.served is None for outcome in outcomes
    )


@pytest.mark.parametrize("speculate", [False, True])
def test_the_trace_of_a_replay(tmp_path, speculate):
    profile = searches((0.013, 0.027), ((0, 1), (0, 1)), ((1, 0), (0, 1)))
    requests = workload(
        *[(number * 0.0317, pair) for number, pair in enumerate(["ab", "cd", "ba", "ae", "cf"] * 20)], output=3
    )
    report = replayed(requests, profile=profile, speculate=speculate, max_batch=3, device_cache=900, max_waiting=40)
    assert len(report.as_dict()["outcomes"]) == 2  # some are answered, some refused
    write_timeline(tmp_path / "t.json", report.outcomes)
    events = events_of(tmp_path / "t.json")
    check(events)
    assert any(event["name"] == "speculative prefill" for event in events) == speculate
