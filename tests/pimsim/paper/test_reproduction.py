"""The paper's figures beside ours, and the order of the systems."""

import pytest

from pimsim.paper import evaluation, reproduction


def test_a_figure_tells_its_deviation_and_whether_it_is_reproduced():
    figure = reproduction.Figure("gain", 2.0, 1.5, 2.5, {"small": 1.0, "large": 2.2})
    assert (figure.matched("small"), figure.matched("large")) == (False, True)
    assert figure.deviation("small") == -0.5
    assert figure.deviation("large") == pytest.approx(0.1)
    assert "-50% OUT" in figure.in_words()


def test_the_order_of_throughputs_of_one_request_is_the_papers_but_for_naive_hbm(monkeypatch):
    monkeypatch.setattr(evaluation, "RETRIEVE_EVERY", {"OR": 0})
    monkeypatch.setattr(evaluation, "ROUNDS", 1)
    runs = evaluation._runs(evaluation.Case(1))
    for model in evaluation.MODELS:
        rates = {system: runs[system, model, "OR"].throughput_rps for system in evaluation.SYSTEMS}
        assert rates["cpu-gpu-v100"] < rates["only-dimm"] < rates["heterrag"]
