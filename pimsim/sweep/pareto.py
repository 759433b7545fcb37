"""Pareto front: the points that no other beats in every objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pimsim.errors import WorkloadError
from pimsim.sweep.results import Results
from pimsim.sweep.table import POINT, Row

SENSES = {"min": 1.0, "max": -1.0}


@dataclass(frozen=True, slots=True)
class Objective:
    """A column, and whether less (`min`) or more (`max`) of it is better."""

    name: str
    sense: str

    def __post_init__(self) -> None:
        if self.sense not in SENSES:
            raise WorkloadError(f"the sense of {self.name} must be min or max, not {self.sense!r}")


@dataclass(frozen=True, eq=False)
class Front:
    """The points of a sweep that are on the front, by the first objective from its best to its worst."""

    results: Results
    objectives: tuple[Objective, ...]
    points: tuple[int, ...]

    def rows(self) -> list[Row]:
        """A row for each point of the front: its number, its axes' values, its objectives."""
        names = list(dict.fromkeys((POINT, *self.results.axes, *(objective.name for objective in self.objectives))))
        chosen = self.results.table.select(names).to_pylist()
        return [chosen[point] for point in self.points]


def pareto(results: Results, *objectives: Objective) -> Front:
    """The front of a sweep's results. Points that failed, or lack an objective, are left out; equal points are all on
    it.

    WorkloadError if no point is left, or for a column that is not there.
    """
    named = tuple(Objective(results.name(objective.name), objective.sense) for objective in objectives)
    costs = np.stack([SENSES[each.sense] * results.numbers(each.name) for each in named], axis=1)
    usable = np.flatnonzero(np.isfinite(costs).all(axis=1))
    if not len(usable):
        raise WorkloadError(f"{results.folder.path}: no point has {' and '.join(each.name for each in named)}")
    best = usable[on_front(costs[usable])]
    order = np.lexsort((best, *costs[best].T[::-1]))
    return Front(results, named, tuple(best[order].tolist()))


def on_front(costs: np.ndarray) -> np.ndarray:
    """Whether each row of `costs` [rows, 1 or more], finite, is on the front, bool [rows].

    A row is, unless another is as low in all columns and lower in one.
    """
    distinct, place = np.unique(costs, axis=0, return_inverse=True)  # sorted: a point is never beaten by a later one
    if costs.shape[1] == 2:  # in order of the first, those that are lower in the second than all before
        before = np.minimum.accumulate(np.concatenate([[np.inf], distinct[:-1, 1]]))
        return (distinct[:, 1] < before)[place.reshape(-1)]
    kept = np.zeros(len(distinct), bool)
    front = np.empty_like(distinct)
    count = 0
    for number, row in enumerate(distinct):
        if not (front[:count] <= row).all(axis=1).any():
            kept[number] = True
            front[count] = row
            count += 1
    return kept[place.reshape(-1)]


def objectives(x: str, y: str, least: Sequence[str], most: Sequence[str]) -> list[Objective]:
    """The x axis, of which less is better, the y axis, of which more is, and others; `least` and `most` change that.

    WorkloadError for a name that is in both.
    """
    for name in least:
        if name in most:
            raise WorkloadError(f"{name} can be --min or --max, not both")
    senses = {x: "min", y: "max"} | dict.fromkeys(least, "min") | dict.fromkeys(most, "max")
    return [Objective(name, sense) for name, sense in senses.items()]
