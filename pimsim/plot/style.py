"""Style: what all plots of sweeps share: a paper's column wide, quantities with units, legends, scales, files.

It needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import AutoMinorLocator, EngFormatter, FuncFormatter, LogLocator, NullFormatter

from pimsim.errors import PimsimError
from pimsim.sweep import table

WIDTH = 3.5  # inches of a column
# Okabe and Ito's colours, which the colour-blind can tell apart; in grey their markers differ
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "pimsim",  # equal plots are equal files
}
WIDE = 20  # times the least: beyond that, a log scale
TICKS = 6  # up to this many distinct values each have a tick
LINE, MARKER = 62, 4  # letters of a legend's line, and what a marker takes
# by the ending of a name: what is written, and for seconds and joules the units of its kind
UNITS = {
    "gbps": "GB/s",
    "tbps": "TB/s",
    "mhz": "MHz",
    "bytes": "bytes",
    "cycles": "cycles",
    "tokens": "tokens",
    "usd": "$",
    "mm2": "mm²",
    "w": "W",
    "rps": "requests/s",
}
PREFIXED = {
    "s": {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0},
    "J": {"pJ": 1e-12, "nJ": 1e-9, "µJ": 1e-6, "mJ": 1e-3, "J": 1.0},
}
WRITTEN = {"ns": "ns", "us": "µs", "ms": "ms", "s": "s", "pj": "pJ", "nj": "nJ", "uj": "µJ", "mj": "mJ", "j": "J"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column as an axis shows it: its label, and the factor that turns its numbers into the label's unit."""

    label: str
    factor: float = 1.0

    @classmethod
    def of(cls, name: str, values: Sequence[float]) -> Quantity:
        """The quantity of a column: `energy_nj.total` around 2e6 is written "energy total (mJ)" and multiplied by
        1e-6.
        """
        words: list[str] = []
        unit = ""
        for part in _short(name).replace(".", " ").replace("_", " ").split():
            if words and not unit and part in (*UNITS, *WRITTEN):
                unit = part
            else:
                words.append(part)
        text = " ".join(words)
        if unit not in WRITTEN:
            return cls(f"{text} ({UNITS[unit]})" if unit else text)
        units = PREFIXED["J" if unit.endswith("j") else "s"]
        known = np.abs(np.asarray(values, np.float64))
        own = units[WRITTEN[unit]]
        middle = float(np.median(known)) * own if len(known) else own
        fitting = [name for name, size in units.items() if size <= middle] or [next(iter(units))]
        return cls(f"{text} ({fitting[-1]})", own / units[fitting[-1]])


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Put a legend above the plot, in as few rows as there is room for."""
    columns = _columns([str(handle.get_label()) for handle in handles])
    figure.legend(
        # it fills column by column
        handles=[handle for column in range(columns) for handle in handles[column::columns]],
        loc="outside upper center",
        ncols=columns,
        handletextpad=0.2,
        columnspacing=0.9,
        handlelength=1.2,
        borderaxespad=0.1,
    )


def scale(panel: Any, axis: Any, values: np.ndarray) -> None:
    """Give an axis a linear or a log scale, and ticks, as its values need."""
    low, high = float(values.min()), float(values.max())
    distinct = np.unique(values)
    if low > 0 and high / low >= WIDE:
        getattr(panel, f"set_{axis.axis_name}scale")("log")
        axis.set_major_locator(LogLocator(numticks=8))
        axis.set_minor_formatter(NullFormatter())
    elif len(distinct) <= TICKS:
        axis.set_ticks(distinct)
    else:
        axis.set_minor_locator(AutoMinorLocator(2))
    axis.set_major_formatter(FuncFormatter(tick))


def tick(value: float, place: int | None = None) -> str:  # noqa: ARG001
    """A number as ticks show it, with four digits at most."""
    return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else str(EngFormatter(sep="").format_eng(value))


def save(figure: Any, file: Path) -> None:
    """Write the figure, whole or not at all, and equal for equal plots. PimsimError if the file cannot be written."""
    ending = file.suffix.lower().removeprefix(".")
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[ending]
    try:
        table.whole(file, lambda partial: figure.savefig(partial, format=ending, dpi=300, metadata=metadata))
    except OSError as error:
        raise PimsimError(f"cannot write {file}: {error.strerror or error}") from error


def _columns(labels: Sequence[str]) -> int:
    """Columns of a legend that has as few rows as the width allows."""
    for rows in range(1, len(labels)):
        columns = -(-len(labels) // rows)
        if columns * MARKER + sum(max(map(len, labels[column::columns])) for column in range(columns)) <= LINE:
            return columns
    return 1


def _short(name: str) -> str:
    """A field's name without the words that all fields of a device begin with."""
    return name.removeprefix("device.").removeprefix("standard.")
