"""Workloads: what is written is read, what is wrong is named by line, and a rate and a seed give the arrivals."""

import gzip
import json
import statistics

import pytest

from ragcache.errors import TraceError
from ragcache.replay.workload import TimedRequest, Workload
from ragcache.simulate.trace import read_trace

REQUESTS = (
    TimedRequest(0.0, (("a", 100), ("b", 20)), 12, 6),
    TimedRequest(0.1 + 0.2, (("3", 7),), "Wie hoch ist der Mönch?", 1),
    TimedRequest(0.1 + 0.2, (("half a character: \ud800", 1),), 1, 300),
    TimedRequest(0.1 + 0.2, (), 1, 300),
)
GOOD = '{"t": 1.5, "path": ["a"], "sizes": [4], "question": 3, "output": 2}\n'


@pytest.mark.parametrize("name", ["w.jsonl", "w.jsonl.gz"])
def test_what_is_written_is_read(tmp_path, name):
    file = tmp_path / name
    Workload(REQUESTS).write(file)
    assert Workload.read(file) == Workload(REQUESTS)
    first = file.read_bytes()
    Workload.read(file).write(file)
    assert file.read_bytes() == first
    text = gzip.decompress(first) if name.endswith("gz") else first
    assert json.loads(text.splitlines()[0]) == {
        "t": 0.0, "path": ["a", "b"], "sizes": [100, 20], "question": 12, "output": 6,
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [file]


def test_a_workload_is_a_trace_too(tmp_path):
    file = tmp_path / "w.jsonl"
    Workload(REQUESTS).write(file)
    read, converted = read_trace(file, "paths"), Workload(REQUESTS).trace
    assert [[s.key for s in path] for path in read.paths] == [[s.key for s in path] for path in converted.paths]
    assert converted.tokens == [120, 7, 1, 0]


def test_ids_may_be_numbers_and_empty_lines_are_none(tmp_path):
    file = tmp_path / "w.jsonl"
    file.write_text('\n{"t": 1, "path": [3], "sizes": [4], "question": "q", "output": 2, "more": null}\n\n')
    assert Workload.read(file).requests == (TimedRequest(1, (("3", 4),), "q", 2),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no requests"),
        ("[]\n", ":1: needs a JSON object"),
        (GOOD + '{"t": 2', ":2: not valid JSON"),
        (GOOD + GOOD.replace('"t": 1.5, ', ""), ":2: 't' is missing: a number of seconds, 0 or more"),
        (GOOD.replace("1.5", "-1"), ":1: 't' is a number of seconds, 0 or more, not -1"),
        (GOOD.replace("1.5", "NaN"), ":1: 't' is a number of seconds, 0 or more, not nan"),
        (GOOD.replace("1.5", "Infinity"), ":1: 't' is a number of seconds, 0 or more, not inf"),
        (GOOD.replace("1.5", "1" + 400 * "0"), ":1: 't' is a number of seconds, 0 or more, not 1000"),
        (GOOD.replace("1.5", "true"), ":1: 't' is a number of seconds, 0 or more, not True"),
        (GOOD + GOOD.replace("1.5", "1"), ":2: 't' is 1.0, before the 1.5 of the line above; sort by time"),
        (GOOD.replace("[4]", "[4, 5]"), ":1: needs lists 'path' and 'sizes' of one length"),
        (GOOD.replace("[4]", "[0]"), ":1: a size is a whole number of 1 or more, not 0"),
        (GOOD.replace('"question": 3', '"question": 0'), ":1: 'question' is a text or a number of tokens, 1 or more"),
        (GOOD.replace('"question": 3', '"question": " "'), ":1: 'question' is a text or a number of tokens"),
        (GOOD.replace('"output": 2', '"output": 2.5'), ":1: 'output' is a number of tokens, 1 or more, not 2.5"),
        (GOOD.replace(', "output": 2', ""), ":1: 'output' is missing: a number of tokens, 1 or more"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_line(tmp_path, text, message):
    file = tmp_path / "w.jsonl"
    file.write_text(text)
    with pytest.raises(TraceError) as caught:
        Workload.read(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"cannot read .*nowhere\.jsonl: No such file"):
        Workload.read(tmp_path / "nowhere.jsonl")


def test_a_rate_and_a_seed_give_poisson_arrivals():
    workload = Workload(REQUESTS * 4000)
    timed = workload.with_rate(2.5, seed=7)
    times = [request.time for request in timed.requests]
    gaps = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    assert times == sorted(times)
    # of an exponential distribution, mean and deviation are the same
    assert statistics.fmean(gaps) == pytest.approx(1 / 2.5, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 2.5, rel=0.03)
    assert [(r.documents, r.question, r.output) for r in timed.requests] == [
        (r.documents, r.question, r.output) for r in workload.requests
    ]


def test_a_seed_gives_the_same_times_at_every_run_and_another_rate_stretches_them():
    workload = Workload(REQUESTS)
    times = [request.time for request in workload.with_rate(1.0, seed=3).requests]
    assert times == pytest.approx([0.2718, 1.0575, 1.5195, 2.4456], abs=1e-4)
    assert workload.with_rate(1.0, seed=3) == workload.with_rate(1.0, seed=3) != workload.with_rate(1.0, seed=4)
    assert [r.time for r in workload.with_rate(4.0, seed=3).requests] == pytest.approx([time / 4 for time in times])


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_cannot_be_is_refused(rate):
    with pytest.raises(TraceError, match="a rate is a number of requests a second above 0"):
        Workload(REQUESTS).with_rate(rate, seed=0)
