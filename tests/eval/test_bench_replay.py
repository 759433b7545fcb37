"""The benchmark of the replay measures both loads and holds them to their bounds."""

import json

import pytest

from eval import bench_replay
from ragcache.schedule.admission import AdmissionQueue

FEW = 2 * bench_replay.WAITING


def test_a_system_of_pimsim_replays_with_searches_of_its_own():
    row = bench_replay.replayed("light", 200, "cpu-gpu-h100", timed=False)
    assert row["answered"] == 200
    assert row["speculations"] == 0  # without `p` a search shows nothing on its way


def test_a_light_load_waits_for_nobody_and_an_overload_for_a_thousand():
    before = AdmissionQueue.advance
    light = bench_replay.replayed("light", 400, "a10g", timed=False)
    overload = bench_replay.replayed("overload", FEW, "a10g", timed=True)
    assert (light["answered"], overload["answered"]) == (400, FEW)
    assert light["most_in_flight"] < 20
    assert overload["most_in_flight"] >= bench_replay.WAITING
    assert light["speculations"] > 0
    assert (light["scheduling_us"], overload["document_ratio"] > 0) == (0, True)
    assert 0 < overload["scheduling_us"] < 1e6 / overload["requests_per_second"] * 2
    assert AdmissionQueue.advance is before  # what was timed is as it was


@pytest.mark.parametrize(("speed", "scheduling", "status"), [(1000, 1000, 0), (999, 10, 1), (5000, 1001, 1)])
def test_the_status_says_whether_the_bounds_hold(monkeypatch, capsys, speed, scheduling, status):
    def replayed(load: str, requests: int, hardware: str, *, timed: bool) -> dict[str, object]:
        return {
            "load": load, "requests": requests, "hardware": hardware, "most_in_flight": 1, "document_ratio": 0.5,
            "requests_per_second": speed, "scheduling_us": scheduling if timed else 0,
        }  # fmt: skip

    monkeypatch.setattr(bench_replay, "replayed", replayed)
    assert bench_replay.main(["--json", "--requests", str(FEW)]) == status
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["load"], row["ok"]) for row in rows] == [("light", not status), ("overload", not status)]
    assert bench_replay.main(["--requests", str(FEW)]) == status
    assert ("TOO SLOW" in capsys.readouterr().out) == bool(status)


def test_too_few_requests_are_refused(capsys):
    with pytest.raises(SystemExit):
        bench_replay.main(["--requests", "100"])
    assert "--requests must be at least 2000" in capsys.readouterr().err
