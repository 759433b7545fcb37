"""Figure: a Pareto front, and tornados, drawn at the width of a paper's column. It needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import AutoMinorLocator, EngFormatter, FuncFormatter, LogLocator, NullFormatter

from pimsim.errors import PimsimError
from pimsim.sweep import table
from pimsim.sweep.pareto import Front
from pimsim.sweep.sensitivity import Effect, Spread, Swing, levels

WIDTH = 3.5  # inches of a column
# Okabe and Ito's, told apart by the colour-blind, and in grey by their markers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
LEAST_COLOUR, MOST_COLOUR = COLOURS[0], COLOURS[4]
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
BARS = 12
TICKS = 6  # distinct values that each get theirs
LETTER, SHARES = 0.024, 0.13  # of a tornado's width: a letter of a level's name, the column on the right
ROUNDS = 20
LINE, MARKER = 62, 4  # letters of a legend's line, and what a marker takes
TIMES = "\N{MULTIPLICATION SIGN}"
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
    """How a column is written on an axis: its label, and what its numbers are multiplied with for the label's unit."""

    label: str
    factor: float = 1.0

    @classmethod
    def of(cls, name: str, values: Sequence[float]) -> Quantity:
        """`energy_nj.total` around 2e6 is written "energy total (mJ)" and multiplied with 1e-6."""
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


def draw_front(front: Front, file: Path, colour: str | None) -> None:
    """All points, coloured by an axis (one with few values if None), and the front of the first two objectives."""
    results, (x, y) = front.results, front.objectives[:2]
    across, up = results.numbers(x.name), results.numbers(y.name)
    usable = np.isfinite(across) & np.isfinite(up)
    quantities = [Quantity.of(each.name, values[usable]) for each, values in ((x, across), (y, up))]
    across, up = across * quantities[0].factor, up * quantities[1].factor
    chosen = results.name(colour) if colour is not None else _colouring(front)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        panel = figure.subplots()
        handles: list[Any] = []
        if chosen is None:
            panel.scatter(across[usable], up[usable], s=9, color="#9a9a9a", linewidths=0, alpha=0.7)
        else:
            names, level = levels(results.values(chosen))
            for at, name in enumerate(names):
                own = usable & (level == at)
                look: Any = {"marker": MARKERS[at % len(MARKERS)], "color": COLOURS[at % len(COLOURS)]}
                panel.scatter(across[own], up[own], s=11, linewidths=0, alpha=0.55, **look)
                handles.append(Line2D([], [], ls="", ms=4, label=name, **look))
        best = np.array(front.points)
        best = best[np.argsort(across[best], kind="stable")]
        circles: Any = {"color": "black", "lw": 0.9, "marker": "o", "ms": 4.6, "mfc": "none", "mew": 0.8}
        # what the front dominates begins at its steps; of three objectives this is but a shadow
        steps: Any = {"drawstyle": "steps-post" if x.sense == "min" else "steps-pre", "ls": "-"}
        steps = steps if len(front.objectives) == 2 else {"ls": ""}
        panel.plot(across[best], up[best], zorder=3, **circles, **steps)
        handles.append(Line2D([], [], label="Pareto front", ls=steps["ls"], **circles))
        for axis, values, quantity in zip((panel.xaxis, panel.yaxis), (across, up), quantities, strict=True):
            _scale(panel, axis, values[usable])
            axis.set_label_text(quantity.label)
        panel.grid(True)
        if chosen is not None:
            handles.insert(0, Line2D([], [], ls="", label=f"{Quantity.of(chosen, []).label}:"))
        columns = _columns([str(handle.get_label()) for handle in handles])
        figure.legend(
            handles=[handle for at in range(columns) for handle in handles[at::columns]],  # it fills column by column
            loc="outside upper center",
            ncols=columns,
            handletextpad=0.2,
            columnspacing=0.9,
            handlelength=1.2,
            borderaxespad=0.1,
        )
        _save(figure, file)


def draw_tornado(effects: Sequence[Effect], spread: Spread | None, metric: str, file: Path) -> None:
    """A panel of the axes' effects, where there are any, and one of the assumed parameters, where they were varied."""
    shown = [effect for effect in effects if effect.swing > 0][:BARS]
    swings = [swing for swing in spread.swings if swing.size(spread.baseline) > 0][:BARS] if spread else []
    bars = [len(part) for part, wanted in ((shown, effects), (swings, spread)) if wanted]
    with mpl.rc_context(STYLE):
        height = 0.55 * len(bars) + 0.21 * sum(max(2, count) for count in bars)
        figure = Figure(figsize=(WIDTH, max(1.4, height)), layout="constrained")
        panels = figure.subplots(len(bars), 1, squeeze=False, height_ratios=[max(2, count) for count in bars])[:, 0]
        left = list(panels)
        if effects:
            _effects(left.pop(0), shown, metric)
        if spread:
            _swings(left.pop(0), swings, spread)
        figure.align_labels()
        _save(figure, file)


def _effects(panel: Any, shown: Sequence[Effect], metric: str) -> None:
    quantity = Quantity.of(metric, [effect.most for effect in shown])
    for at, effect in enumerate(reversed(shown)):
        least, most = effect.least * quantity.factor, effect.most * quantity.factor
        panel.barh(at, most - least, left=least, color=LEAST_COLOUR, height=0.62)
        for value, text, side, gap in ((least, effect.least_at, "right", -2), (most, effect.most_at, "left", 2)):
            panel.annotate(text, (value, at), (gap, 0), textcoords="offset points", ha=side, va="center", fontsize=6)
        share = f"{effect.variance:.0%}"
        panel.annotate(share, (1.0, at), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=7)
    _bars(panel, [Quantity.of(effect.name, []).label for effect in reversed(shown)])
    if shown:
        low, width = 0.0, quantity.factor * max(effect.swing for effect in shown)
        for _ in range(ROUNDS):  # the wider the panel, the more room the levels' names take on it
            low = min(e.least * quantity.factor - LETTER * len(e.least_at) * width for e in shown)
            high = max(e.most * quantity.factor + LETTER * len(e.most_at) * width for e in shown)
            width = (high - low) / (1 - SHARES)
        panel.set_xlim(low, low + width)
        panel.set_title("share of variance", loc="right", fontsize=7, pad=2)
    panel.set_xlabel(f"mean {quantity.label}")


def _swings(panel: Any, shown: Sequence[Swing], spread: Spread) -> None:
    quantity = Quantity.of(spread.metric, [spread.baseline])
    baseline = spread.baseline * quantity.factor
    around = {name: value * quantity.factor for name, value in spread.percentiles().items()}
    if around:
        panel.axvspan(around["p5"], around["p95"], color="#eeeeee", zorder=0, lw=0)
    for at, swing in enumerate(reversed(shown)):
        for value, colour in ((swing.at_low, LEAST_COLOUR), (swing.at_high, MOST_COLOUR)):
            if value is not None:
                panel.barh(at, value * quantity.factor - baseline, left=baseline, color=colour, height=0.62)
    panel.axvline(baseline, color="black", lw=0.7)
    _bars(panel, [f"{Quantity.of(swing.name, []).label} = {swing.value:g}" for swing in reversed(shown)])
    if not shown:
        panel.text(0.5, 0.5, "no assumed parameter has an effect", transform=panel.transAxes, ha="center", va="center")
    panel.set_xlabel(quantity.label)
    handles = [
        Patch(color=LEAST_COLOUR, label=f"{TIMES}{1 / spread.factor:g}"),
        Patch(color=MOST_COLOUR, label=f"{TIMES}{spread.factor:g}"),
    ]
    if around:
        handles.append(Patch(color="#e4e4e4", label="all at once, 5 to 95 %"))
    panel.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=3,
        borderaxespad=0,
        columnspacing=1,
        handlelength=1,
    )


def _short(name: str) -> str:
    """A field's name without what all fields of a device have in common."""
    return name.removeprefix("device.").removeprefix("standard.")


def _bars(panel: Any, names: Sequence[str]) -> None:
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(-0.6, max(len(names), 2) - 0.4)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.xaxis.set_major_formatter(FuncFormatter(_tick))
    panel.grid(True, axis="x")


def _columns(labels: Sequence[str]) -> int:
    """Of a legend: as few rows as the width has room for."""
    for rows in range(1, len(labels)):
        columns = -(-len(labels) // rows)
        if columns * MARKER + sum(max(map(len, labels[at::columns])) for at in range(columns)) <= LINE:
            return columns
    return 1


def _colouring(front: Front) -> str | None:
    """The axis with the fewest values, if those can be told apart and are no objective."""
    taken = {objective.name for objective in front.objectives}
    counts = {name: len(set(front.results.values(name))) for name in front.results.axes if name not in taken}
    few = {name: count for name, count in counts.items() if 1 < count <= len(COLOURS)}
    numeric = set(front.results.numeric())
    return min(few, key=lambda name: (name in numeric, few[name])) if few else None


def _scale(panel: Any, axis: Any, values: np.ndarray) -> None:
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
    axis.set_major_formatter(FuncFormatter(_tick))


def _tick(value: float, place: int | None = None) -> str:  # noqa: ARG001
    return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else str(EngFormatter(sep="").format_eng(value))


def _save(figure: Any, file: Path) -> None:
    ending = file.suffix.lower().removeprefix(".")
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[ending]
    try:
        table.whole(file, lambda partial: figure.savefig(partial, format=ending, dpi=300, metadata=metadata))
    except OSError as error:
        raise PimsimError(f"cannot write {file}: {error.strerror or error}") from error
