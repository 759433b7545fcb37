"""Effects of axes and spreads of assumed parameters, on models whose answers are known."""

import numpy as np
import pytest

from pimsim.errors import WorkloadError
from pimsim.sweep.design import Sweep
from pimsim.sweep.run import run_sweep
from pimsim.sweep.sensitivity import assumed_spread, effects, levels
from pimsim.sweep.target import TARGETS, Target
from pimsim.sweep.uncertainty import uncertainty

MODELS = "tests.pimsim.props.models"


def swept(out, **changes):
    return run_sweep(Sweep.of(f"{MODELS}:plane", **changes), out, workers=1)


def test_effects_of_a_plane_are_its_slopes(tmp_path):
    results = swept(tmp_path / "out", axes={"y": [0, 2, 4], "x": [0, 2, 4], "z": [0, 9]})
    x, y, z = effects(results, "total")
    assert (x.name, x.least_at, x.most_at, x.swing) == ("x", "0", "4", 12)
    assert (y.name, y.least_at, y.most_at, y.swing) == ("y", "0", "4", 4)
    assert x.variance == pytest.approx(9 / 10)  # variances of a sum add up: 3² and 1²
    assert y.variance == pytest.approx(1 / 10)
    assert (z.name, z.swing, z.variance) == ("z", 0, 0)


def test_effects_of_a_sample_are_those_of_bins(tmp_path):
    axes = {name: {"from": 0.0, "to": 1.0} for name in ("x", "y", "z")}
    results = swept(tmp_path / "out", axes=axes, sample="latin-hypercube", points=400)
    x, y, z = effects(results, "total")
    assert [effect.name for effect in (x, y, z)] == ["x", "y", "z"]
    assert x.variance == pytest.approx(0.9, abs=0.05)
    assert y.variance == pytest.approx(0.1, abs=0.05)
    assert z.variance < 0.05
    assert x.swing == pytest.approx(3 * 7 / 8, rel=0.1)


def test_levels_are_values_or_bins_of_about_as_many():
    assert levels([True, False, True])[0] == ["true", "false"]
    assert levels(["b", "a"])[0] == ["b", "a"]
    assert levels([512, 256, 1024])[0] == ["256", "512", "1024"]
    labels, level = levels(np.random.default_rng(0).random(100).tolist())
    assert len(labels) == 8
    assert np.bincount(level).min() >= 12
    assert levels([20_000_000, 1_500_000, 16_384, 12_345.0])[0] == ["12.3k", "16384", "1.5M", "20M"]


def test_too_few_points_tell_nothing(tmp_path):
    results = run_sweep(Sweep.of(f"{MODELS}:uneven", axes={"x": [0, 3]}), tmp_path / "out", workers=1)
    with pytest.raises(WorkloadError, match="fewer than two points"):
        effects(results, "value")


@pytest.fixture
def _leaning(monkeypatch):
    """A target that leans on assumptions: a number, a whole number, a size, one that must not grow, a text."""

    def prepare(values):
        known = {"a": 2.0, "n": 3, "size": 64, "share": 0.6, "word": "w"} | values
        if known["share"] > 1:
            raise WorkloadError("share must be 1 at most")
        assert known["size"] in (32, 64, 128)
        return lambda: {"cost": known["x"] + 10 * known["a"] + known["n"] + known["size"] / 64 + 0 * known["share"]}

    def assumed(_):
        return [("a", 2.0), ("n", 3), ("size", 64), ("share", 0.6), ("word", "w"), ("x", 1), ("zero", 0)]

    monkeypatch.setitem(TARGETS, "leaning", Target("leaning", prepare, "cost", assumed=assumed))


@pytest.mark.usefixtures("_leaning")
def test_each_assumed_number_swings_alone_and_all_spread_together(tmp_path):
    results = run_sweep(Sweep.of("leaning", axes={"x": [100, 200, 300]}), tmp_path / "out", workers=1)
    spread = assumed_spread(results, "cost", samples=40, workers=1)
    assert spread.baseline == 200 + 20 + 3 + 1
    a, n, size, share = spread.swings
    assert (a.name, a.at_low, a.at_high) == ("a", 214, 244)
    assert (n.name, n.low_value, n.high_value, n.at_low, n.at_high) == ("n", 2, 6, 223, 227)
    assert (size.name, size.low_value, size.high_value) == ("size", 32, 128)
    assert (share.name, share.at_low, share.at_high) == ("share", 224, None)
    assert spread.fixed == ("word", "zero")
    # a share from 0.3 to 1.2 is above 1 in 13 % of the draws, which are drawn again
    assert (len(spread.samples), spread.failed) == (40, 0)
    around = spread.percentiles()
    assert 211 < around["p5"] < around["p50"] < around["p95"] < 251


@pytest.mark.usefixtures("_leaning")
def test_one_points_uncertainty_is_that_of_its_assumptions():
    spread = uncertainty("leaning", {"x": 100}, ["cost"], samples=200, workers=1)
    assert (spread.factor, spread.samples, spread.failed) == (2.0, 200, 0)
    percentiles = spread.percentiles["cost"]
    # 10 times a number around 2, log-uniform, beside a whole number around 3 and a size
    assert percentiles["p50"] == pytest.approx(100 + 20 + 3 + 1, abs=2)
    assert 111 < percentiles["p5"] < 116
    assert 140 < percentiles["p95"] < 148
    kept = uncertainty("leaning", {"x": 100, "n": 3}, ["cost"], samples=50, kept=("a", "si"), workers=1)
    assert set(kept.percentiles["cost"].values()) == {124.0}
    assert "cost" in spread.in_words()
    with pytest.raises(WorkloadError, match="samples must be from 1"):
        uncertainty("leaning", {"x": 100}, ["cost"], samples=0)
    with pytest.raises(WorkloadError, match="no number is assumed"):
        uncertainty("leaning", {"x": 100}, ["cost"], kept=("a", "n", "s"), workers=1)


@pytest.mark.usefixtures("_leaning")
def test_what_can_never_be_is_not_drawn_for_ever():
    with pytest.raises(WorkloadError, match="cannot be other than it is"):
        uncertainty("leaning", {"x": 100, "share": 2.0}, ["cost"], samples=8, workers=1)


@pytest.mark.usefixtures("_leaning")
def test_the_point_is_chosen_and_must_work(tmp_path):
    results = run_sweep(Sweep.of("leaning", axes={"x": [100, 200], "share": [0.5, 2.0]}), tmp_path / "out", workers=1)
    assert assumed_spread(results, "cost", samples=0, point=0, workers=1).baseline == 124
    with pytest.raises(WorkloadError, match=r"share must be 1 at most"):
        assumed_spread(results, "cost", samples=0, point=1, workers=1)
    with pytest.raises(WorkloadError, match="no point 4"):
        assumed_spread(results, "cost", point=4, workers=1)
    with pytest.raises(WorkloadError, match="factor must be above 1"):
        assumed_spread(results, "cost", factor=1.0, workers=1)


@pytest.mark.parametrize(
    ("target", "base", "axes", "names"),
    [
        (
            "attention",
            {"length": 512, "heads": 8, "head_dim": 128, "fidelity": "closed", "device": "hbm2-heterrag"},
            {"level": ["bank"]},
            {"device.stacks", "device.standard.timing.tCWL", "device.timing.mac_to_precharge"},
        ),
        pytest.param(
            "system",
            {"config": "heterrag", "workload.requests": 2, "workload.output_tokens": 16},
            {"retrieval.devices": [4]},
            {"dimm.standard.timing.tRFC", "hbm.timing.mac_to_precharge", "workload.document_tokens", "host.query_us"},
            marks=pytest.mark.full(proof="test_what_a_simulator_assumes_can_be_varied"),
        ),
    ],
)
def test_what_a_simulator_assumes_can_be_varied(tmp_path, target, base, axes, names):
    results = run_sweep(Sweep.of(target, base=base, axes=axes), tmp_path / "out", workers=1)
    spread = assumed_spread(results, TARGETS[target].metric, samples=0, workers=1)
    assert names <= {swing.name for swing in spread.swings}
    assert all(swing.at_low is not None or swing.at_high is not None for swing in spread.swings)
