"""`pimsim run`: what it prints, and one line for what it cannot do."""

import json

import pytest

from pimsim.cli import main
from tests.pimsim.props.systems import SMALL

SETTINGS = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]


def test_run_prints_metrics_and_writes_a_timeline(tmp_path, capsys):
    timeline = tmp_path / "timeline.json"
    assert main(["run", "heterrag", *SETTINGS, "--json", "--timeline", str(timeline)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"throughput_rps", "tokens_per_s", "ttft_p99_s", "bottleneck", "area_mm2", "cost_usd"} <= set(report)
    assert report["requests"] == SMALL["workload.requests"]
    events = json.loads(timeline.read_text())["traceEvents"]
    assert {event["name"] for event in events} >= {"search", "prefill", "decode", "merge"}
    ends = [event["ts"] + event["dur"] for event in events if event["ph"] == "X"]
    assert max(ends) <= report["makespan_s"] * 1e6 * (1 + 1e-9)


def test_run_in_words_names_what_holds_and_what_is_assumed(capsys):
    assert main(["run", "cpu-gpu-v100", *SETTINGS]) == 0
    printed = capsys.readouterr().out
    assert "generation holds" in printed
    assert "assumed: " in printed


def test_run_tells_how_uncertain_its_answer_is(capsys):
    words = ["run", "heterrag", *SETTINGS, "--spread", "8", "--workers", "1", "--quiet"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    around = report["uncertainty"]
    assert (around["samples"], around["failed"]) == (8, 0)
    for metric in ("throughput_rps", "latency_mean_s", "energy_j_a_request", "cost_usd"):
        bounds = around["percentiles"][metric]
        assert bounds["p5"] < bounds["p50"] < bounds["p95"]
        assert 0.5 * bounds["p5"] < report[metric] < 2 * bounds["p95"]
    assert set(around["percentiles"]["area_mm2"].values()) == {report["area_mm2"]}  # nothing is assumed of it
    assert main(words) == 0
    assert "8 samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "heterag"], "is heterrag"),
        (["run", "heterrag", "--set", "workload.batch"], "--set takes FIELD=VALUE"),
        (["run", "heterrag", "--set", "workload.batch=many"], "workload.batch must be a whole number"),
        (["run", "heterrag", "--set", "model=llama2-70b"], "take more devices"),
        (["run", "heterrag", *SETTINGS, "--timeline", "/no/such/folder/file"], "cannot write"),
    ],
)
def test_what_cannot_be_is_one_line(words, said, capsys):
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
