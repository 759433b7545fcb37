"""Grid, random and Latin hypercube: what each promises, for any axes."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimsim.errors import FieldError
from pimsim.sweep.axis import Axis
from pimsim.sweep.sampling import grid, latin_hypercube, random

finite = st.floats(1e-6, 1e6)
ranges = st.builds(
    lambda low, span, scale, steps, whole: Axis.of(
        "x", {"from": low, "to": low + span, "scale": scale, "steps": steps, "whole": whole}, "test"
    ),
    finite.map(lambda value: float(math.ceil(value))),
    st.integers(1, 10**6).map(float),
    st.sampled_from(["linear", "log"]),
    st.sampled_from([0, 2, 3, 17]),
    st.booleans(),
)
lists = st.lists(st.integers(-9, 9) | st.text(max_size=3), min_size=1, max_size=5, unique=True).map(
    lambda values: Axis.of("x", values, "test")
)
axes = st.lists(ranges | lists, min_size=1, max_size=4)
counts, seeds = st.integers(1, 200), st.integers(0, 2**32)


def belongs(axis: Axis, value: object) -> bool:
    if axis.values:
        return value in axis.values
    if axis.steps:
        return value in axis.grid("test")
    assert isinstance(value, int if axis.whole else float)
    return axis.low <= value <= axis.high


@given(axes, counts, seeds, st.sampled_from([random, latin_hypercube]))
def test_samples_are_of_the_axes_and_depend_on_the_seed_alone(axes, count, seed, sample):
    points = sample(axes, count, seed)
    assert len(points) == count
    assert all(belongs(axis, value) for point in points for axis, value in zip(axes, point, strict=True))
    assert points == sample(axes, count, seed)


@given(counts, seeds, st.sampled_from(["linear", "log"]), st.integers(1, 4))
def test_a_latin_hypercube_has_one_point_in_each_part_of_each_axis(count, seed, scale, dimensions):
    axis = Axis.of("x", {"from": 1.0, "to": 1000.0, "scale": scale}, "test")
    points = np.array(latin_hypercube([axis] * dimensions, count, seed))
    share = np.log(points) / np.log(1000) if scale == "log" else (points - 1) / 999
    part = np.floor(share * count + 1e-9 * (share * count % 1 > 1 - 1e-9)).astype(int)
    assert all(sorted(column) == list(range(count)) for column in part.T)


@given(st.integers(1, 7), counts, seeds)
def test_a_latin_hypercube_takes_each_value_of_a_list_equally_often(length, count, seed):
    axis = Axis.of("x", list(range(length)), "test")
    taken = np.bincount([point[0] for point in latin_hypercube([axis], count, seed)], minlength=length)
    assert taken.max() - taken.min() <= 1 + count % length


def test_seeds_differ():
    axis = Axis.of("x", {"from": 0.0, "to": 1.0}, "test")
    for sample in (random, latin_hypercube):
        assert sample([axis], 10, 1) != sample([axis], 10, 2)


@given(st.lists(lists | ranges.filter(lambda axis: axis.steps), min_size=1, max_size=3))
def test_a_grid_has_every_combination_once(axes):
    points = grid(axes, "test")
    assert len(points) == len(set(map(repr, points))) == math.prod(len(axis.grid("test")) for axis in axes)
    assert [axis.grid("test")[0] for axis in axes] == list(points[0])
    assert [axis.grid("test")[-1] for axis in axes] == list(points[-1])
    assert all(belongs(axis, value) for point in points for axis, value in zip(axes, point, strict=True))


@given(ranges.filter(lambda axis: axis.steps))
def test_steps_rise_from_end_to_end(axis):
    values = axis.grid("test")
    assert values[0] == axis.low
    assert values[-1] == axis.high
    assert all(one < other for one, other in itertools.pairwise(values))
    assert len(values) <= axis.steps


def test_steps_on_a_log_scale_multiply():
    axis = Axis.of("x", {"from": 256, "to": 32768, "scale": "log", "steps": 8}, "test")
    assert axis.grid("test") == (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
    assert all(isinstance(value, int) for value in axis.grid("test"))


def test_a_grid_that_nobody_waits_for_is_refused():
    wide = Axis.of("x", {"from": 1, "to": 100_000, "steps": 100_000}, "test")
    with pytest.raises(FieldError, match="10000000000 points"):
        grid([wide, wide], "test")
