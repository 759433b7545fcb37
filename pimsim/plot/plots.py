"""Plots: files of Pareto fronts, lines and tornados. matplotlib, the extra `plot`, is imported when one is drawn."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from pimsim.plot.file import check
from pimsim.sweep.pareto import Front
from pimsim.sweep.results import Results
from pimsim.sweep.sensitivity import Effect, Spread


def plot_front(front: Front, file: str | Path, *, colour: str | None = None) -> None:
    """Draw all points, coloured by an axis (one with few values if None), and the front of the first two objectives.

    PimsimError if the file cannot be written, or matplotlib is missing.
    """
    check([Path(file)])
    _module("figure").draw_front(front, Path(file), colour)


def plot_lines(results: Results, x: str, y: str, file: str | Path, *, by: str | None = None) -> None:
    """Draw `y` over `x`, a line for each value of `by`, through the mean of the points that share both.

    PimsimError if the file cannot be written, a name is not that of a column, or matplotlib is missing.
    """
    check([Path(file)])
    _module("figure").draw_lines(results, x, y, by, Path(file))


def plot_tornado(effects: Sequence[Effect], spread: Spread | None, metric: str, file: str | Path) -> None:
    """Draw a panel of the axes' effects, if there are any, and one of the assumed parameters, if they were varied.

    PimsimError if the file cannot be written, or matplotlib is missing.
    """
    check([Path(file)])
    _module("tornado").draw_tornado(effects, spread, metric, Path(file))


def _module(name: str) -> ModuleType:
    """Import what draws; matplotlib takes half a second that no other command has to wait for."""
    return importlib.import_module(f"pimsim.plot.{name}")
