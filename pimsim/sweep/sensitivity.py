"""Sensitivity: which parameter matters: effects of a sweep's axes, and of assumed parameters at one of its points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pimsim.errors import PimsimError, WorkloadError
from pimsim.result import configuration_hash
from pimsim.sweep.axis import Axis
from pimsim.sweep.design import LISTED, Sweep
from pimsim.sweep.results import Results
from pimsim.sweep.run import run_sweep
from pimsim.sweep.sampling import latin_hypercube
from pimsim.sweep.target import Target

MOST_LEVELS = 12  # distinct values of an axis that are levels of their own
LEAST_SIZE = 64  # powers of two from here on are sizes of memories, and stay powers of two
BINS, LEAST_IN_BIN = 8, 4
BAND = (5, 50, 95)  # percentiles of a spread
ROUNDS = 50  # in which points that cannot be are drawn again


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of one axis: the mean of the metric at the level where it is least and at the one where it is most.

    `variance` is the share of the metric's variance between levels (the correlation ratio, 0 … 1).
    """

    name: str
    least_at: str
    least: float
    most_at: str
    most: float
    variance: float

    @property
    def swing(self) -> float:
        """The distance between the two means."""
        return self.most - self.least

    def as_dict(self) -> dict[str, Any]:
        """The effect as the command's JSON has it."""
        names = ("name", "least_at", "least", "most_at", "most", "variance")
        return {name: getattr(self, name) for name in names} | {"swing": self.swing}


@dataclass(frozen=True, slots=True)
class Swing:
    """An assumed parameter's effect: the metric at its low and high value, all else unchanged; None if that fails."""

    name: str
    value: float
    low_value: float
    high_value: float
    at_low: float | None
    at_high: float | None

    def size(self, baseline: float) -> float:
        """The distance between the farthest two of the low, the high and the unchanged value."""
        known = [value for value in (self.at_low, self.at_high, baseline) if value is not None]
        return max(known) - min(known)

    def as_dict(self) -> dict[str, Any]:
        """The effect as the command's JSON has it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Parameter:
    """An assumed number, and the range in which it varies."""

    value: float
    axis: Axis


@dataclass(frozen=True, slots=True)
class Spread:
    """The metric while assumed parameters vary by `factor` both ways: each alone, and all at once, log-uniformly."""

    metric: str
    factor: float
    baseline: float
    swings: tuple[Swing, ...]  # the greatest first
    samples: tuple[float, ...]  # of all at once, those that did not fail
    failed: int
    fixed: tuple[str, ...]  # assumed, but no number that can be varied

    def percentiles(self) -> dict[str, float]:
        """Percentiles of the metric over the samples, by name (`p5`); empty without samples."""
        if not self.samples:
            return {}
        return {f"p{percentile}": float(np.percentile(self.samples, percentile)) for percentile in BAND}

    def as_dict(self) -> dict[str, Any]:
        """All effects and percentiles as the command's JSON has them."""
        plain = ("metric", "factor", "baseline", "failed")
        return {name: getattr(self, name) for name in plain} | {
            "samples": len(self.samples),
            "percentiles": self.percentiles(),
            "parameters": [swing.as_dict() for swing in self.swings],
            "not_varied": list(self.fixed),
        }


def effects(results: Results, metric: str) -> list[Effect]:
    """The effect of every axis with two values or more, the greatest share of variance first.

    It is right for a grid or a sample, in which axes are independent. WorkloadError if no two points have the metric.
    """
    measured = results.numbers(metric)
    usable = np.isfinite(measured)
    if usable.sum() < 2:
        raise WorkloadError(f"{results.folder.path}: fewer than two points have {metric}")
    metric_values = measured[usable]
    given = []
    for name in results.axes:
        values = [value for value, chosen in zip(results.values(name), usable, strict=True) if chosen]
        labels, level = levels(values)
        if len(labels) > 1:
            given.append(_effect(name, labels, level, metric_values))
    return sorted(given, key=lambda effect: (-effect.variance, effect.name))


def levels(values: Sequence[Any]) -> tuple[list[str], np.ndarray]:
    """Labels, and each value's index in them: distinct values, or, of many numbers, bins with about as many values in
    each.
    """
    distinct = list(dict.fromkeys(values))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    if len(distinct) <= MOST_LEVELS or not numeric:
        distinct = sorted(distinct) if numeric else distinct
        place = {value: number for number, value in enumerate(distinct)}
        return [_label(value) for value in distinct], np.array([place[value] for value in values])
    array = np.asarray(values, np.float64)
    bins = max(2, min(BINS, len(values) // LEAST_IN_BIN))
    cuts = np.unique(np.quantile(array, np.arange(1, bins) / bins))
    level = np.searchsorted(cuts, array, side="right")
    _, level = np.unique(level, return_inverse=True)
    inside = [array[level == number] for number in range(int(level.max()) + 1)]
    ends = [(_label(part.min()), _label(part.max())) for part in inside]
    return [low if low == high else f"{low} to {high}" for low, high in ends], level


def assumed_spread(
    results: Results,
    metric: str,
    *,
    factor: float = 2.0,
    samples: int = 64,
    point: int | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Spread:
    """Simulate a point of the sweep, its middle one if None, with its assumed parameters from 1/factor to factor times.

    What is simulated is kept in a folder inside the sweep's, so that it can be resumed as well. WorkloadError if the
    point fails as it is, or nothing in it is assumed.
    """
    if not factor > 1 or not math.isfinite(factor):
        raise WorkloadError(f"the factor must be above 1, not {factor:g}")
    if samples < 0:
        raise WorkloadError(f"samples must be 0 or more, not {samples}")
    sweep = results.sweep
    base = {**sweep.base, **_values(results, point)} if point is not None else sweep.baseline()
    try:
        sweep.simulator.prepare(base)
        varying, fixed = parameters(sweep.simulator, base, factor)
    except PimsimError as error:
        raise WorkloadError(f"the point cannot be simulated as it is: {error}; choose another with --point") from error
    axes, defaults = [each.axis for each in varying], tuple(each.value for each in varying)
    if not axes:
        raise WorkloadError(f"{sweep.target}: no number is assumed that the sweep leaves as it is")
    points = [defaults]
    for number, axis in enumerate(axes):
        points += [(*defaults[:number], end, *defaults[number + 1 :]) for end in (axis.ends()[0], axis.ends()[-1])]
    points += possible(sweep.simulator, base, axes, samples)
    names = [axis.name for axis in axes]
    listed = [dict(zip(names, values, strict=True)) for values in points]
    varied = Sweep.of(sweep.target, base=base, sample=LISTED, points=listed, where="assumed parameters")
    # by all that they depend on: what another factor, point or release has left does not disturb
    out = results.folder.path / "sensitivity" / configuration_hash(varied.identity())
    ran = run_sweep(varied, out, workers=workers, progress=progress)
    measured = ran.numbers(results.name(metric))
    if not math.isfinite(measured[0]):
        raise WorkloadError(f"the point cannot be simulated as it is: {ran.errors.get(0)}; choose another with --point")
    single, joint = measured[1 : 1 + 2 * len(axes)].reshape(-1, 2), measured[1 + 2 * len(axes) :]
    baseline = float(measured[0])
    swings = [
        Swing(axis.name, default, axis.ends()[0], axis.ends()[-1], *(_known(value) for value in pair))
        for axis, default, pair in zip(axes, defaults, single, strict=True)
    ]
    return Spread(
        results.name(metric),
        factor,
        baseline,
        tuple(sorted(swings, key=lambda swing: (-swing.size(baseline), swing.name))),
        tuple(joint[np.isfinite(joint)].tolist()),
        int((~np.isfinite(joint)).sum()),
        fixed,
    )


def possible(simulator: Target, base: Mapping[str, Any], axes: Sequence[Axis], samples: int) -> list[tuple[Any, ...]]:
    """Points of a Latin hypercube, up to `samples`, that can be prepared; those that cannot are drawn again.

    A short time above the long one cannot, for instance. There are fewer points if hardly any can be prepared.
    """
    points: list[tuple[Any, ...]] = []
    for seed in range(ROUNDS if samples else 0):
        for values in latin_hypercube(axes, samples, seed):
            try:
                simulator.prepare({**base, **{axis.name: value for axis, value in zip(axes, values, strict=True)}})
            except PimsimError:
                continue
            points.append(values)
            if len(points) == samples:
                return points
    return points


def _effect(name: str, labels: Sequence[str], level: np.ndarray, values: np.ndarray) -> Effect:
    counts = np.bincount(level, minlength=len(labels))
    means = np.bincount(level, values, len(labels)) / counts
    whole = float(((values - values.mean()) ** 2).sum())
    between = float((counts * (means - values.mean()) ** 2).sum())
    least, most = int(means.argmin()), int(means.argmax())
    share = min(1.0, between / whole) if whole else 0.0
    return Effect(name, labels[least], float(means[least]), labels[most], float(means[most]), share)


def parameters(simulator: Target, base: dict[str, Any], factor: float) -> tuple[list[Parameter], tuple[str, ...]]:
    """The assumed numbers that `base` does not set, and the names of what else is assumed."""
    varied, fixed = [], []
    for name, value in dict(simulator.assumed(base)).items():
        if name in base:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            fixed.append(name)
        elif isinstance(value, int) and value >= LEAST_SIZE and not value & (value - 1):
            shifts = range(-int(math.log2(factor)), int(math.log2(factor)) + 1)
            varied.append(Parameter(value, Axis(name, tuple(round(value * 2.0**shift) for shift in shifts))))
        elif isinstance(value, int):
            low, high = max(1, round(value / factor)), max(1, round(value * factor))
            varied.append(Parameter(value, Axis(name, low=low, high=high, scale="log", whole=True)))
        else:
            varied.append(Parameter(value, Axis(name, low=value / factor, high=value * factor, scale="log")))
    return varied, tuple(fixed)


def _values(results: Results, point: int) -> dict[str, Any]:
    """The axes' values at a point."""
    if not 0 <= point < len(results):
        raise WorkloadError(f"there is no point {point}: they are 0 to {len(results) - 1}")
    return {name: results.rows[point][name] for name in results.axes}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _label(value: Any) -> str:
    """Short: whole numbers below a million as they are, others with letters; true and false as YAML has them."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float) or (isinstance(value, int) and abs(value) < 1e6):
        return str(value)
    for least, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.4g}"
