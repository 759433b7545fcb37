"""What a prefill costs: the formulas, the grid between and beyond its points, and files that are no profile."""

import json

import pytest

from ragcache.cost import AnalyticCost, ConstantCost, PolynomialCost, PrefillProfile, parse_cost
from ragcache.errors import ConfigError

PROFILE = PrefillProfile(
    "a model", "cpu", "float32", 2, (0, 100, 400), (10, 20, 60), ((1.0, 2.0, 6.0), (2.0, 4.0, 12.0), (5.0, 9.0, 27.0)),
    shape="Decoder 2x64", prefill_chunk=64, runs=3, spread=((0.1,) * 3,) * 3, measured_at="2026-11-22T21:05:05+00:00",
)  # fmt: skip


def test_constant():
    assert (ConstantCost(2.0)(0, 1), ConstantCost(2.0)(500, 9000), ConstantCost(2.0)(500, 0)) == (2.0, 2.0, 0.0)


def test_polynomial_is_the_difference_of_two_prompts():
    cost = PolynomialCost(50, 0.01)
    assert cost(0, 1000) == pytest.approx((50 * 1000 + 0.01 * 1000**2) * 1e-6)
    assert cost(300, 700) == pytest.approx((50 * 700 + 0.01 * (1000**2 - 300**2)) * 1e-6)
    assert cost(300, 0) == 0
    assert cost(0, 300) + cost(300, 700) == pytest.approx(cost(0, 1000))  # a prefill in two steps is one


def test_analytic_counts_what_its_docstring_says():
    cost = AnalyticCost(weights=1000, layers=3, query_width=64, flops=1e6)
    assert cost(20, 10) == pytest.approx((2 * 1000 * 10 + 2 * 3 * 64 * (30**2 - 20**2)) / 1e6)
    assert cost(20, 0) == 0


@pytest.mark.parametrize(("cached", "new"), [(c, n) for c in PROFILE.cached for n in PROFILE.new])
def test_a_profile_gives_back_what_was_measured(cached, new):
    row, column = PROFILE.cached.index(cached), PROFILE.new.index(new)
    assert PROFILE(cached, new) == pytest.approx(PROFILE.seconds[row][column])


def test_a_profile_is_bilinear_between_four_points():
    assert PROFILE(0, 15) == pytest.approx(1.5)
    assert PROFILE(50, 10) == pytest.approx(1.5)
    assert PROFILE(50, 15) == pytest.approx((1 + 2 + 2 + 4) / 4)
    assert PROFILE(175, 30) == pytest.approx(0.75 * (0.75 * 4 + 0.25 * 12) + 0.25 * (0.75 * 9 + 0.25 * 27))


def test_a_profile_goes_on_linearly_beyond_its_grid():
    assert PROFILE(0, 100) == pytest.approx(10.0)  # 0.1 a token, as from 20 to 60
    assert PROFILE(700, 10) == pytest.approx(8.0)  # 0.01 a token, as from 100 to 400
    assert PROFILE(0, 5) == pytest.approx(0.5)
    assert PROFILE(0, 0) == PROFILE(100, 0) == 0.0
    steep = PrefillProfile("m", "cpu", "float32", 1, (0, 10), (10, 20), ((1.0, 9.0), (1.0, 9.0)))
    assert steep(0, 1) == 0.0  # never negative


def test_a_profile_survives_its_file(tmp_path):
    file = tmp_path / "profile.json"
    PROFILE.save(file)
    assert PrefillProfile.load(file) == PROFILE
    assert parse_cost(str(file)) == PROFILE
    assert json.loads(file.read_text())["version"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "not a prefill profile of version 2 .its version: 1."),
        ({"version": None}, "not a prefill profile"),
        ({"model": 3}, "'model' must be a text, not 3"),
        ({"threads": "many"}, "cannot be used"),
        ({"prefill_chunk": 0}, "'prefill_chunk' must be 1 or more, not 0"),
        ({"measured_at": None}, "'measured_at' must be a text"),
        ({"cached": [0]}, "'cached' must be two or more ascending"),
        ({"cached": [0, 0, 400]}, "'cached' must be two or more ascending"),
        ({"new": [0, 10, 20]}, "'new' must start at 1"),
        ({"seconds": [[1, 2, 3]]}, "must be 3 rows .cached. of 3 times .new."),
        ({"seconds": [[1, 2, 3], [1, 2, 3], [1, 2, -3]]}, "finite and above 0"),
        ({"seconds": None}, "cannot be used"),
    ],
)
def test_a_file_that_is_no_profile_says_why(tmp_path, change, message):
    file = tmp_path / "profile.json"
    PROFILE.save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError, match=message) as caught:
        PrefillProfile.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "not valid JSON"),
        ("[" * 5000, "not valid JSON"),
        ("[1]", "not a prefill profile"),
        ("{}", "not a prefill profile"),
    ],
)
def test_a_file_that_is_not_even_an_object(tmp_path, text, message):
    file = tmp_path / "profile.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        PrefillProfile.load(file)


def test_a_lacking_field_is_named(tmp_path):
    file = tmp_path / "profile.json"
    PROFILE.save(file)
    values = json.loads(file.read_text())
    del values["dtype"]
    file.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="lacks 'dtype'"):
        PrefillProfile.load(file)


def test_costs_by_name(tmp_path):
    assert parse_cost("constant") == ConstantCost()
    assert parse_cost("50,0.01") == PolynomialCost(50, 0.01)
    for wrong in ("cheap", "1,2,3", "a,b"):
        with pytest.raises(ConfigError, match=r"is not a cost: write constant, a,b .* or a profile's file"):
            parse_cost(wrong)
    for wrong in ("-1,0", "nan,1", "1,inf"):
        with pytest.raises(ConfigError, match="not possible"):
            parse_cost(wrong)
    with pytest.raises(ConfigError, match="cannot read the profile"):
        parse_cost(str(tmp_path))
