"""A soak of a real server of the tiny model, its verdict on memory, and its load."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch

from eval import soak
from eval.props.crowd import Request, Visit

SIZES = ["--device-cache", "200KiB", "--host-cache", "200KiB", "--disk-cache", "16MiB", "--threads", "1"]
PATIENCE = 60
MIB = 2**20


class Memory(NamedTuple):
    """As psutil tells it on Linux."""

    rss: int
    shared: int


@pytest.fixture
def options(tiny_index, tiny_folder) -> list[str]:
    return ["--model", str(tiny_folder), "--index", str(tiny_index), *SIZES]


def test_a_soak_of_seconds_has_no_error_and_tells_its_times(options, capsys, monkeypatch, server_here):
    """With the server in this process, and a host that holds one document or two: so the disk is asked soon."""
    server_here(soak)
    monkeypatch.setattr(soak, "SAMPLE_SECONDS", 0.1)
    monkeypatch.setattr(soak, "LONGEST_TIMEOUT_MS", 20)
    monkeypatch.setattr(soak, "LONGEST_HANG_UP", 0.05)
    status = soak.main([*options, "--host-cache", "60KiB", "--minutes", "0.08", "--rate", "25", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (status, report["problems"]) == (0, []), report
    assert report["outcomes"]["answered"] > 20
    assert min(report["tokens"].values()) > 0
    assert report["ttft"]["p50"] < report["total"]["p50"]
    assert len(report["own"]) == len(report["rss"]) > 4
    assert (report["growth"] is None) == (len(report["own"]) < soak.LEAST_SAMPLES)


@pytest.mark.full(proof="test_a_soak_of_seconds_has_no_error_and_tells_its_times")
def test_a_short_soak_has_no_error_and_tells_its_times(options, capsys, monkeypatch):
    monkeypatch.setattr(soak, "SAMPLE_SECONDS", 0.25)
    monkeypatch.setattr(soak, "LONGEST_TIMEOUT_MS", 20)
    monkeypatch.setattr(soak, "LONGEST_HANG_UP", 0.05)
    status = soak.main([*options, "--minutes", "0.15", "--rate", "15", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (status, report["problems"]) == (0, []), report
    assert set(report["outcomes"]) == {"answered", "expired", "hung up"}
    assert report["outcomes"]["answered"] > 50
    assert min(report["tokens"].values()) > 0
    for name in ("ttft", "total", "tpot"):
        assert 0 < report[name]["p50"] <= report[name]["p95"] <= report[name]["p99"]
    assert report["ttft"]["p50"] < report["total"]["p50"]
    assert len(report["rss"]) > 20
    assert len(report["own"]) == len(report["rss"])
    assert all(50 * MIB < own < rss for own, rss in zip(report["own"], report["rss"], strict=True))
    assert report["growth"]["bytes"] <= report["growth"]["allowed"]
    assert not report["interrupted"]


@pytest.mark.full(proof="test_an_interruption_leaves_no_folder")
def test_an_interruption_prints_what_there_is(options, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.soak", *options, "--rate", "10"],
        cwd=Path(soak.__file__).parents[1],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    servers: list[psutil.Process] = []
    while not servers and time.monotonic() < deadline:
        servers = psutil.Process(process.pid).children()
        time.sleep(0.05)
    log = next(tmp_path.glob("ragcache-soak-*")) / "server.log"
    while "http://" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2.0)  # some requests
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "(interrupted)" in out
    assert "answered" in out
    assert "time to first token" in out
    assert "Traceback" not in err
    assert not any(server.is_running() and server.status() != psutil.STATUS_ZOMBIE for server in servers)
    assert not list(tmp_path.glob("ragcache-soak-*"))


def judged(own: list[float]) -> list[str]:
    report = soak.Report(10.0, 1.0, 1, 0, own=[round(size * MIB) for size in own])
    report.judge_growth()
    return report.problems


def test_memory_that_fills_at_first_has_not_grown_and_a_leak_has():
    filling = [500 + min(sample, 40) * 10 for sample in range(150)]
    assert judged(filling) == []
    noisy = [1000 + 50 * (sample % 10 == 0) + 5 * (sample % 3) for sample in range(150)]
    assert judged(noisy) == []
    leaking = [1000 + sample * 0.8 for sample in range(150)]
    assert judged(leaking) == ["memory grew by 40.0 MiB, 21.2 MiB may be chance"]
    assert judged([1000, 1100] * 4) == []  # too few to say
    assert "too short to judge" in soak.Report(1, 1, 1, 0, rss=[MIB] * 8, own=[MIB] * 8).in_words()


def test_a_cache_that_fills_for_the_whole_soak_is_no_growth_and_a_leak_beside_it_is():
    def own(sample: int, leaked: int) -> float:
        size = {"total": 900 * MIB, "free": (900 - 4 * sample) * MIB, "cached": 3 * sample * MIB, "held": sample * MIB}
        cache = {"tiers": {name: {"bytes": size} for name in ("device", "host", "disk")}}
        in_memory = 1 if torch.cuda.is_available() else 2
        return (
            soak.own_bytes(
                Memory((1300 + in_memory * 4 * sample + sample + leaked * sample) * MIB, (300 + sample) * MIB), cache
            )
            / MIB
        )

    assert {own(sample, 0) for sample in range(150)} == {1000}
    assert judged([own(sample, 0) for sample in range(150)]) == []
    assert len(judged([own(sample, 1) for sample in range(150)])) == 1


def test_what_must_not_be_is_a_problem():
    report = soak.Report(10.0, 1.0, 1, 0)
    hold = soak.Soak(report).hold
    hold(Visit(Request({"timeout_ms": 5}), "expired", problem="HTTP 504"))
    hold(Visit(Request({}, hang_up=0.1), "hung up"))
    assert report.problems == []
    hold(Visit(Request({}), "expired", problem="HTTP 504"))
    hold(Visit(Request({}), "refused", problem="HTTP 429"))
    hold(Visit(Request({}), "failed", problem="HTTP 500"))
    assert len(report.problems) == 3
    assert report.outcomes == {"expired": 2, "hung up": 1, "refused": 1, "failed": 1}


def test_the_load_is_mixed_skewed_and_the_same_for_a_seed():
    def load(seed: int) -> list[Request]:
        return list(itertools.islice(soak.mixed_requests([f"q{number}" for number in range(500)], 4.0, 24, seed), 4000))

    requests = load(1)
    assert requests == load(1) != load(2)
    asked = Counter(request.body["question"] for request in requests)
    assert asked["q0"] > 1.6 * asked["q1"] > 0
    assert 200 < len(asked) < 500
    assert {request.body["top_k"] for request in requests} == {1, 2, 3}
    assert requests[-1].send_after == pytest.approx(1000, rel=0.1)
    for share, chosen in (
        (soak.HANG_UP_SHARE, [request for request in requests if request.hang_up]),
        (soak.TIMEOUT_SHARE, [request for request in requests if "timeout_ms" in request.body]),
        (soak.CHANCE_SHARE, [request for request in requests if "temperature" in request.body]),
        (soak.STREAM_SHARE, [request for request in requests if request.body["stream"]]),
    ):
        assert len(chosen) == pytest.approx(4000 * share, rel=0.2)


@pytest.mark.parametrize("wrong", [["--minutes", "0"], ["--rate", "nan"], ["--clients", "0"]])
def test_impossible_settings_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        soak.main(wrong)
    assert "must be above 0" in capsys.readouterr().err
