"""Uncertainty: one point's results while its assumed parameters vary at once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pimsim.errors import WorkloadError
from pimsim.sweep.design import LISTED, Sweep
from pimsim.sweep.run import run_sweep
from pimsim.sweep.sensitivity import BAND, parameters, possible
from pimsim.sweep.target import target as simulator

MOST_SAMPLES = 100_000


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Percentiles of each metric over the `samples` runs that did not fail."""

    factor: float
    samples: int
    failed: int
    percentiles: Mapping[str, Mapping[str, float]]  # by metric; empty where all failed

    def as_dict(self) -> dict[str, Any]:
        """The fields as the command's JSON names them."""
        percentiles = {metric: dict(of_metric) for metric, of_metric in self.percentiles.items()}
        return {"factor": self.factor, "samples": self.samples, "failed": self.failed, "percentiles": percentiles}

    def in_words(self) -> str:
        """For the terminal: a heading, and a line for each metric."""
        lines = [
            f"  with what is assumed {1 / self.factor:g} to {self.factor:g} times, {self.samples} samples, "
            f"{self.failed} of which failed; 5, 50 and 95 %:"
        ]
        for metric, of_metric in self.percentiles.items():
            lines.append(f"    {metric:<20}" + "".join(f" {value:>10.4g}" for value in of_metric.values()))
        return "\n".join(lines)


def uncertainty(
    target: str,
    base: Mapping[str, Any],
    metrics: Sequence[str],
    *,
    samples: int = 32,
    factor: float = 2.0,
    kept: Sequence[str] = (),
    workers: int | None = None,
    progress: bool = False,
) -> Uncertainty:
    """Simulate the point `base` with its assumed parameters drawn log-uniformly, from 1/factor to factor times.

    Numbers that `base` sets stay, and so do those whose names begin as one of `kept`: they are the question, and not
    unknown. WorkloadError if nothing is assumed, or for a number of samples out of range.
    """
    if not 1 <= samples <= MOST_SAMPLES:
        raise WorkloadError(f"samples must be from 1 to {MOST_SAMPLES}, not {samples}")
    model = simulator(target)
    axes = [one.axis for one in parameters(model, dict(base), factor)[0] if not one.axis.name.startswith(tuple(kept))]
    points = possible(model, base, axes, samples) if axes else []
    if not points:
        why = "what is assumed cannot be other than it is" if axes else "no number is assumed"
        raise WorkloadError(f"{target}: {why}")
    names = [axis.name for axis in axes]
    listed = [dict(zip(names, values, strict=True)) for values in points]
    varied = Sweep.of(target, base=base, sample=LISTED, points=listed, where="assumed parameters")
    with tempfile.TemporaryDirectory(prefix="pimsim-") as out:
        ran = run_sweep(varied, out, workers=workers, progress=progress)
        columns = {metric: ran.numbers(metric) for metric in metrics} if len(ran.errors) < len(points) else {}
    percentiles = {
        metric: {f"p{percentile}": float(np.percentile(values[np.isfinite(values)], percentile)) for percentile in BAND}
        for metric, values in columns.items()
    }
    return Uncertainty(factor, len(points), len(ran.errors), percentiles)
