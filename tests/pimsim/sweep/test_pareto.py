"""The front against the definition, and what is asked of a sweep's columns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pimsim.errors import WorkloadError
from pimsim.sweep.design import Sweep
from pimsim.sweep.folder import Folder
from pimsim.sweep.pareto import Objective, objectives, on_front, pareto
from pimsim.sweep.results import Results
from pimsim.sweep.run import run_sweep
from pimsim.sweep.table import table

MODELS = "tests.pimsim.props.models"


def naive(costs):
    """Nobody else is as low everywhere and lower somewhere: each against each."""
    return [not any((other <= one).all() and (other < one).any() for other in costs) for one in costs]


few, any_number = st.integers(0, 4).map(float), st.floats(-1e6, 1e6)


@given(st.integers(1, 4).flatmap(lambda width: arrays(np.float64, (30, width), elements=few | any_number)))
def test_the_front_is_what_nobody_beats(costs):
    assert on_front(costs).tolist() == naive(costs)


def test_the_front_of_many_points_is_found_in_time():
    costs = np.random.default_rng(0).random((20_000, 2))
    chosen = on_front(costs)
    front = costs[chosen]
    assert naive(front) == [True] * len(front)
    assert all((front <= cost).all(axis=1).any() for cost in costs[~chosen])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    sweep = Sweep.of(f"{MODELS}:uneven", axes={"x": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]})
    return run_sweep(sweep, tmp_path_factory.mktemp("sweep") / "out", workers=1)


def test_failed_points_are_not_on_it_and_the_first_objective_orders_it(results):
    front = pareto(results, Objective("x", "min"), Objective("value", "max"))
    assert front.rows() == [
        {"point": x, "x": x, "value": v} for x, v in ((0, 0.0), (1, 1.0), (5, 5.0), (7, 7.0), (9, 9.0))
    ]
    worst = pareto(results, Objective("x", "max"), Objective("value", "min"))
    assert worst.points == (10, 6, 4, 2, 0)  # 8 failed


def test_a_column_that_is_not_there_is_named(results):
    with pytest.raises(WorkloadError, match="no result is called 'vlaue'; is value"):
        pareto(results, Objective("vlaue", "min"))
    with pytest.raises(WorkloadError, match="'even' is not a number"):
        pareto(results, Objective("even", "min"))
    with pytest.raises(WorkloadError, match="sense of value"):
        Objective("value", "least")


def test_a_column_is_found_by_its_last_name_and_without_its_unit(tmp_path):
    def row(number):
        return {
            "point": number,
            "x": 1,
            "error": None,
            "cost_usd": 1,
            "host.cost_usd": 2,
            "a.speed_rps": 3,
            "a.all": 4,
            "b.all": 5,
        }

    results = Results(Folder(tmp_path), table([row(0), row(1)]))
    assert results.name("cost_usd") == "cost_usd"
    assert results.name("speed") == results.name("speed_rps") == "a.speed_rps"
    for several, said in (("all", "a.all, b.all"), ("cost", "cost_usd, host.cost_usd")):
        with pytest.raises(WorkloadError, match=f"may be any of {said}: write the whole name"):
            results.name(several)
    with pytest.raises(WorkloadError, match="no result is called 'spee'"):
        results.name("spee")


def test_senses_are_turned_and_added():
    assert objectives("x", "y", [], []) == [Objective("x", "min"), Objective("y", "max")]
    assert objectives("x", "y", ["y", "z"], ["x"]) == [
        Objective("x", "max"),
        Objective("y", "min"),
        Objective("z", "min"),
    ]
    with pytest.raises(WorkloadError, match="not both"):
        objectives("x", "y", ["x"], ["x"])
