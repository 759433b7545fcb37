"""What outcomes add up to, worked out by hand, and how it reads."""

import json
from typing import Any

import pytest

from ragcache.cost import PolynomialCost
from ragcache.replay.replay import Outcome, Served
from ragcache.replay.report import ReplayReport, Spread

EMPTY = {"mean": None, "p50": None, "p95": None, "p99": None}


def served(**changes: Any) -> Served:
    plain = {
        "ttft": 0.5, "total": 1.0, "search": 0.1, "search_overlap": 0.0, "queue": 0.1, "prefill": 0.3,
        "prompt_tokens": 100, "computed_tokens": 40, "device_tokens": 30, "host_tokens": 20, "disk_tokens": 10,
        "output_tokens": 6, "documents": 2, "cached_documents": 1, "speculations": 0, "speculation_used": False,
        "wasted_tokens": 0,
    }  # fmt: skip
    return Served(**{**plain, **changes})


def answered(number: int, **changes: Any) -> Outcome:
    answer = served(**changes)
    return Outcome(number, number * 1.0, number + answer.total, "answered", answer)


def refused(number: int, how: str, message: str = "no") -> Outcome:
    return Outcome(number, number * 1.0, number * 1.0, how, None, message)


def report_of(*outcomes: Outcome, cost: Any = None) -> ReplayReport:
    totals = {"retries": 3, "preemptions": 4}
    return ReplayReport(outcomes, {"policy": "lru"}, most_in_flight=7, totals=totals, cost=cost)


def test_percentiles_are_linear_between_neighbours():
    assert Spread.of(value / 10 for value in range(101)) == Spread(5.0, 5.0, 9.5, 9.9)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.5, 1.95, 1.99)
    assert Spread.of([0.25]) == Spread(0.25, 0.25, 0.25, 0.25)
    assert Spread.of([]).as_dict() == EMPTY


def test_times_tokens_and_totals_add_up():
    guessed = {"speculations": 3, "speculation_used": True, "wasted_tokens": 12, "search_overlap": 0.06}
    figures = report_of(
        answered(0),
        answered(1, ttft=0.7, total=1.2, queue=0.3, output_tokens=1, **guessed),
        answered(2, prompt_tokens=300, computed_tokens=300, device_tokens=0, host_tokens=0, disk_tokens=0,
                 cached_documents=0, documents=6, total=2.0, output_tokens=13),
        refused(3, "overloaded"),
        refused(4, "expired"),
    ).as_dict()  # fmt: skip
    assert figures["config"] == {"policy": "lru"}
    assert (figures["unit"], figures["requests"], figures["seconds"]) == ("seconds", 5, 4.0)
    assert figures["outcomes"] == {"answered": 3, "expired": 1, "overloaded": 1}
    assert figures["ttft"] == {"mean": pytest.approx(1.7 / 3), "p50": 0.5, "p95": 0.68, "p99": 0.696}
    # 0.5 s for 5 tokens and 1.5 s for 12; an answer of one token has none between
    assert figures["time_per_output_token"]["mean"] == pytest.approx((0.1 + 0.125) / 2)
    assert figures["total"]["p50"] == 1.2
    assert figures["queueing"] == {
        "mean": pytest.approx(0.5 / 3),
        "p50": 0.1,
        "p95": 0.28,
        "p99": 0.296,
        "most_in_flight": 7,
    }
    assert figures["prefill"]["p99"] == 0.3
    assert figures["search"]["mean"] == pytest.approx(0.1)
    assert figures["search"]["not_overlapped"]["mean"] == pytest.approx((0.1 + 0.04 + 0.1) / 3)
    assert figures["throughput"] == {
        "requests_per_second": 0.75, "prompt_tokens_per_second": 125.0, "output_tokens_per_second": 5.0,
    }  # fmt: skip
    tokens = {"prompt": 500, "computed": 380, "device": 60, "host": 40, "disk": 20, "output": 20}
    assert figures["tokens"] == tokens
    assert figures["speculation"] == {"started": 3, "used": 1, "wasted_tokens": 12}
    assert figures["hits"] == {
        "document_ratio": 0.2, "token_ratio": 0.24, "prefill_seconds_saved": None, "prefill_seconds_uncached": None,
    }  # fmt: skip
    assert (figures["retries"], figures["preemptions"]) == (3, 4)


def test_what_a_cost_says_was_saved():
    # 1 ms a token, and 1 µs for each pair: 0.11 s for 100 tokens, and for the last 40 of them 40 + 10 - 3.6 ms
    figures = report_of(answered(0), cost=PolynomialCost(1000, 1)).as_dict()["hits"]
    assert figures["prefill_seconds_uncached"] == pytest.approx(0.11)
    assert figures["prefill_seconds_saved"] == pytest.approx(0.11 - 0.0464)


def test_documents_that_are_not_counted_have_no_ratio():
    figures = report_of(answered(0, cached_documents=None), answered(1, cached_documents=None))
    assert figures.as_dict()["hits"]["document_ratio"] is None
    assert "found in the cache" not in figures.table()
    some = report_of(answered(0, cached_documents=None), answered(1, cached_documents=2)).as_dict()
    assert some["hits"]["document_ratio"] == 1.0


@pytest.mark.parametrize("outcomes", [(), (refused(0, "overloaded"),), (refused(0, "failed"), refused(1, "rejected"))])
def test_without_an_answer_there_are_no_times(outcomes):
    report = report_of(*outcomes, cost=PolynomialCost(1000, 1))
    figures = report.as_dict()
    for name in ("ttft", "time_per_output_token", "total", "prefill"):
        assert figures[name] == EMPTY
    assert figures["search"] == {**EMPTY, "not_overlapped": EMPTY}
    assert figures["queueing"] == {**EMPTY, "most_in_flight": 7}
    assert set(figures["throughput"].values()) == {0.0}
    assert set(figures["tokens"].values()) == {0}
    assert figures["hits"]["document_ratio"] is None
    assert figures["hits"]["token_ratio"] == 0.0
    json.loads(report.as_json(), parse_constant=pytest.fail)  # no NaN
    lines = report.table().splitlines()
    assert lines[1].split() == ["time", "to", "first", "token", "-", "-", "-", "-"]


def test_the_table_shows_milliseconds_shares_and_what_went_wrong():
    report = report_of(
        answered(0, ttft=1.2345),
        *(refused(number, "failed", f"trouble {number}") for number in range(1, 6)),
        refused(6, "overloaded", "full"),
        cost=PolynomialCost(1000, 0),
    )
    table = report.table()
    lines = table.splitlines()
    assert lines[0].split() == ["milliseconds", "mean", "p50", "p95", "p99"]
    assert lines[1] == f"{'time to first token':<28}" + f"{'1,234.5':>12}" * 4
    assert len({len(line) for line in lines[:8]}) == 1
    assert "requests     7: 1 answered, 5 failed, 1 overloaded" in lines
    assert "prompts      100 tokens: 30.0 % from device, 20.0 % from host, 10.0 % from disk, 40.0 % computed" in lines
    assert "documents    50.0 % found in the cache" in lines
    # three of those that went wrong, by their place in the file; who was refused is only counted
    assert lines[-3:] == [f"request {number + 1} failed: trouble {number}" for number in (1, 2, 3)]


def test_the_json_is_the_dictionary():
    report = report_of(answered(0))
    assert json.loads(report.as_json()) == report.as_dict()
