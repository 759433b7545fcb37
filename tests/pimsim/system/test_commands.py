"""`pimsim run` and the table of `pimsim reproduce`."""

import dataclasses
import json

import pytest

from pimsim.cli import main
from pimsim.system import paper, paper_plot, reproduction
from tests.pimsim.system.cases import SMALL

SETTINGS = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]


def test_run_prints_metrics_and_writes_a_timeline(tmp_path, capsys):
    timeline = tmp_path / "timeline.json"
    assert main(["run", "heterrag", *SETTINGS, "--json", "--timeline", str(timeline)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"throughput_rps", "tokens_per_s", "ttft_p99_s", "bottleneck", "area_mm2", "cost_usd"} <= set(told)
    assert told["requests"] == SMALL["workload.requests"]
    events = json.loads(timeline.read_text())["traceEvents"]
    assert {event["name"] for event in events} >= {"search", "prefill", "decode", "merge"}
    ends = [event["ts"] + event["dur"] for event in events if event["ph"] == "X"]
    assert max(ends) <= told["makespan_s"] * 1e6 * (1 + 1e-9)


def test_run_in_words_names_what_holds_and_what_is_assumed(capsys):
    assert main(["run", "cpu-gpu-v100", *SETTINGS]) == 0
    told = capsys.readouterr().out
    assert "generation holds" in told
    assert "assumed: " in told


def test_run_tells_how_uncertain_its_answer_is(capsys):
    words = ["run", "heterrag", *SETTINGS, "--spread", "8", "--workers", "1", "--quiet"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    around = told["uncertainty"]
    assert (around["samples"], around["failed"]) == (8, 0)
    for metric in ("throughput_rps", "latency_mean_s", "energy_j_a_request", "cost_usd"):
        bounds = around["percentiles"][metric]
        assert bounds["p5"] < bounds["p50"] < bounds["p95"]
        assert 0.5 * bounds["p5"] < told[metric] < 2 * bounds["p95"]
    assert set(around["percentiles"]["area_mm2"].values()) == {told["area_mm2"]}  # nothing is assumed of it
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
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_figure_tells_its_deviation_and_whether_it_is_reproduced():
    figure = reproduction.Figure("gain", 2.0, 1.5, 2.5, {"small": 1.0, "large": 2.2})
    assert (figure.matched("small"), figure.matched("large")) == (False, True)
    assert figure.deviation("small") == -0.5
    assert figure.deviation("large") == pytest.approx(0.1)
    assert "-50% OUT" in figure.in_words()


def test_the_order_of_throughputs_of_one_request_is_the_papers_but_for_naive_hbm(monkeypatch):
    monkeypatch.setattr(paper, "RETRIEVE_EVERY", {"OR": 0})
    monkeypatch.setattr(paper, "ROUNDS", 1)
    runs = paper._runs(paper.Case(1))
    for model in paper.MODELS:
        rates = {system: runs[system, model, "OR"].throughput_rps for system in paper.SYSTEMS}
        assert rates["cpu-gpu-v100"] < rates["only-dimm"] < rates["heterrag"]


def test_the_table_and_the_plot_show_every_case(monkeypatch, capsys, tmp_path):
    case = paper.Case(1)
    monkeypatch.setattr(paper, "ROUNDS", 1)
    for mode in ("IR-64", "IR-32"):
        monkeypatch.delitem(paper.RETRIEVE_EVERY, mode)
    one = paper.evaluation(case)
    monkeypatch.setattr(reproduction, "evaluations", lambda: {"one request": one})
    monkeypatch.setattr(paper, "IN_HAND", (1, 2))
    monkeypatch.setattr(reproduction, "IN_HAND", (1, 2))
    plot = tmp_path / "figures.svg"
    assert main(["reproduce", "--plot", str(plot)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert plot.read_text().startswith("<?xml")
    shown = [line for line in lines if line.endswith((" in ", " OUT"))]
    assert len(shown) == len(reproduction.figures({"one request": one}))
    assert main(["reproduce", "--plot", str(tmp_path / "figures.txt")]) == 2
    worse = dataclasses.replace(one, gains={"p": {"OR": 0.3, "IR-16": 1.4}})
    for cases in ((one,), (one, worse)):
        low, high = paper_plot.limits(cases)
        assert low < min(gain for case in cases for gains in case.gains.values() for gain in gains.values())
        assert high > max(gain for case in cases for gains in case.gains.values() for gain in gains.values()) > low
    # what is printed is what the runs say
    eager = next(line for line in lines if "llama2-7b, V100 from Python" in line).split()
    assert float(eager[-2]) > float(eager[-1]) > 1
    ratios = paper.ratios(one.runs, "only-dimm")
    printed = next(line for line in shown if line.startswith("throughput, OnlyDIMM"))
    assert f"{sum(ratios) / len(ratios):.4g}" in printed
