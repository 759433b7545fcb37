"""Sampling: which points of the axes are simulated: grid, random, or Latin hypercube; equal seeds give equal points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pimsim.errors import FieldError
from pimsim.sweep.axis import Axis

MOST_POINTS = 10_000_000


def grid(axes: Sequence[Axis], where: str) -> list[tuple[Any, ...]]:
    """Every combination of the axes' values; the last axis changes fastest. FieldError if they are more than
    MOST_POINTS.
    """
    values = [axis.grid(where) for axis in axes]
    count = math.prod(map(len, values))
    if count > MOST_POINTS:
        raise FieldError(
            f"{where}: the grid has {count} points, more than {MOST_POINTS}: take fewer steps, or a sample"
        )
    return list(itertools.product(*values))


def random(axes: Sequence[Axis], points: int, seed: int) -> list[tuple[Any, ...]]:
    """Points that are drawn independently of each other."""
    return _values(axes, np.random.default_rng(seed).random((points, len(axes))))


def latin_hypercube(axes: Sequence[Axis], points: int, seed: int) -> list[tuple[Any, ...]]:
    """Points such that each of as many equal parts of an axis as there are points has one of them (McKay et al.,
    1979).
    """
    generator = np.random.default_rng(seed)
    parts = np.stack([generator.permutation(points) for _ in axes], axis=1)
    return _values(axes, (parts + generator.random(parts.shape)) / points)


SAMPLES: dict[str, Callable[[Sequence[Axis], int, int], list[tuple[Any, ...]]]] = {
    "random": random,
    "latin-hypercube": latin_hypercube,
}


def _values(axes: Sequence[Axis], shares: np.ndarray) -> list[tuple[Any, ...]]:
    # a share that rounding made 1 belongs to the last part
    below = np.minimum(shares, np.nextafter(1.0, 0.0)).tolist()
    return [tuple(axis.value_at(share) for axis, share in zip(axes, point, strict=True)) for point in below]
