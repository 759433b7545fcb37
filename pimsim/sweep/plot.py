"""Plot: files of Pareto fronts and tornados. matplotlib, the extra `plot`, is imported when one is drawn."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from pimsim.errors import PimsimError
from pimsim.sweep.pareto import Front
from pimsim.sweep.sensitivity import Effect, Spread

FORMATS = (".png", ".svg", ".pdf")


def check(files: Sequence[Path]) -> None:
    """PimsimError if a plot could not be written to one of them."""
    for file in files:
        if importlib.util.find_spec("matplotlib") is None:
            raise PimsimError("--plot needs matplotlib: pip install 'ragcache[plot]'")
        if file.suffix.lower() not in FORMATS:
            raise PimsimError(f"{file}: a plot's file ends in one of {', '.join(FORMATS)}")
        if not file.absolute().parent.is_dir():
            raise PimsimError(f"{file}: there is no folder {file.parent}")


def plot_front(front: Front, file: str | Path, *, colour: str | None = None) -> None:
    """All points, coloured by an axis (one with few values if None), and the front of the first two objectives.

    PimsimError if the file cannot be written, or there is no matplotlib.
    """
    check([Path(file)])
    _figure().draw_front(front, Path(file), colour)


def plot_tornado(effects: Sequence[Effect], spread: Spread | None, metric: str, file: str | Path) -> None:
    """A panel of the axes' effects, where there are any, and one of the assumed parameters, where they were varied.

    PimsimError if the file cannot be written, or there is no matplotlib.
    """
    check([Path(file)])
    _figure().draw_tornado(effects, spread, metric, Path(file))


def _figure() -> ModuleType:
    """What draws, imported late: matplotlib takes half a second that no other command has to wait for."""
    return importlib.import_module("pimsim.sweep.figure")
