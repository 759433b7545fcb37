"""`pimsim reproduce`: its table and its plot show what the runs say."""

import dataclasses

import pytest

from pimsim.cli import main
from pimsim.commands import reproduce
from pimsim.paper import evaluation, plot, reproduction


@pytest.mark.full(proof="test_a_figure_tells_its_deviation_and_whether_it_is_reproduced")
def test_the_table_and_the_plot_show_every_case(monkeypatch, capsys, tmp_path):
    case = evaluation.Case(1)
    monkeypatch.setattr(evaluation, "ROUNDS", 1)
    for mode in ("IR-64", "IR-32"):
        monkeypatch.delitem(evaluation.RETRIEVE_EVERY, mode)
    one = evaluation.evaluation(case)
    monkeypatch.setattr(reproduce, "evaluations", lambda: {"one request": one})
    monkeypatch.setattr(evaluation, "IN_HAND", (1, 2))
    monkeypatch.setattr(reproduce, "IN_HAND", (1, 2))
    drawing = tmp_path / "figures.svg"
    assert main(["reproduce", "--plot", str(drawing)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert drawing.read_text().startswith("<?xml")
    shown = [line for line in lines if line.endswith((" in ", " OUT"))]
    assert len(shown) == len(reproduction.figures({"one request": one}))
    assert main(["reproduce", "--plot", str(tmp_path / "figures.txt")]) == 2
    worse = dataclasses.replace(one, gains={"p": {"OR": 0.3, "IR-16": 1.4}})
    for cases in ((one,), (one, worse)):
        low, high = plot.limits(cases)
        assert low < min(gain for case in cases for gains in case.gains.values() for gain in gains.values())
        assert high > max(gain for case in cases for gains in case.gains.values() for gain in gains.values()) > low
    # what is printed is what the runs say
    eager = next(line for line in lines if "llama2-7b, V100 from Python" in line).split()
    assert float(eager[-2]) > float(eager[-1]) > 1
    ratios = evaluation.ratios(one.runs, "only-dimm")
    printed = next(line for line in shown if line.startswith("throughput, OnlyDIMM"))
    assert f"{sum(ratios) / len(ratios):.4g}" in printed
