"""Plot: a Pareto front, and tornados, at the width of a paper's column. matplotlib is the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pimsim.errors import PimsimError
from pimsim.sweep import table
from pimsim.sweep.pareto import Front
from pimsim.sweep.sensitivity import Effect, Spread, levels

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import AutoMinorLocator, EngFormatter, LogLocator, NullFormatter
except ImportError:  # the extra `plot` is not installed
    Figure = None  # type: ignore[assignment,misc]

FORMATS = (".png", ".svg", ".pdf")
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
TIMES = "\N{MULTIPLICATION SIGN}"
UNITS = {
    "us": "µs",
    "ns": "ns",
    "ms": "ms",
    "s": "s",
    "nj": "nJ",
    "pj": "pJ",
    "j": "J",
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


def check(files: Sequence[Path]) -> None:
    """PimsimError if a plot could not be written to one of them."""
    for file in files:
        if Figure is None:
            raise PimsimError("--plot needs matplotlib: pip install 'ragcache[plot]'")
        if file.suffix.lower() not in FORMATS:
            raise PimsimError(f"{file}: a plot's file ends in one of {', '.join(FORMATS)}")
        if not file.absolute().parent.is_dir():
            raise PimsimError(f"{file}: there is no folder {file.parent}")


def label(name: str) -> str:
    """`energy_nj.total` is written "energy total (nJ)"."""
    words: list[str] = []
    unit = ""
    for part in name.replace(".", " ").replace("_", " ").split():
        if part in UNITS and words and not unit:
            unit = UNITS[part]
        else:
            words.append(part)
    return " ".join(words) + (f" ({unit})" if unit else "")


def plot_front(front: Front, file: Path, *, colour: str | None = None) -> None:
    """All points, coloured by an axis (one with few values if None), and the front of the first two objectives."""
    check([file])
    results, (x, y) = front.results, front.objectives[:2]
    across, up = results.numbers(x.name), results.numbers(y.name)
    usable = np.isfinite(across) & np.isfinite(up)
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
                colour_of, marker = COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]
                panel.scatter(across[own], up[own], s=11, marker=marker, color=colour_of, linewidths=0, alpha=0.55)
                handles.append(Line2D([], [], ls="", marker=marker, ms=4, color=colour_of, label=name))
        best = np.array(front.points)
        order = np.argsort(across[best], kind="stable")
        line = Line2D([], [], color="black", lw=0.9, marker="o", ms=4.2, mfc="none", mew=0.8, label="Pareto front")
        panel.plot(
            across[best][order],
            up[best][order],
            color="black",
            lw=0.9,
            ls="-" if len(front.objectives) == 2 else "",
            drawstyle="steps-post" if x.sense == "min" else "steps-pre",
            marker="o",
            ms=4.6,
            mfc="none",
            mew=0.8,
            zorder=3,
        )
        for axis, values, name in ((panel.xaxis, across[usable], x.name), (panel.yaxis, up[usable], y.name)):
            _scale(panel, axis, values)
            axis.set_label_text(label(name))
        panel.grid(True)
        legend = panel.legend(
            handles=[*handles, line],
            title=label(chosen) if chosen else None,
            title_fontsize=7,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            handletextpad=0.3,
            borderaxespad=0.2,
        )
        legend.set_in_layout(True)
        _save(figure, file)


def plot_tornado(effects: Sequence[Effect], spread: Spread | None, metric: str, file: Path) -> None:
    """A panel of the axes' effects, where there are any, and one of the assumed parameters, where they were varied."""
    check([file])
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
    for at, effect in enumerate(reversed(shown)):
        panel.barh(at, effect.swing, left=effect.least, color=LEAST_COLOUR, height=0.62)
        for value, text, side in ((effect.least, effect.least_at, "right"), (effect.most, effect.most_at, "left")):
            offset = (-2 if side == "right" else 2, 0)
            panel.annotate(
                text, (value, at), offset, textcoords="offset points", ha=side, va="center", fontsize=6, color="#444444"
            )
    _bars(panel, [f"{label(effect.name)}  {effect.variance:.0%}" for effect in reversed(shown)])
    panel.set_xlabel(f"mean {label(metric)}; % of variance")
    panel.margins(x=0.22)


def _swings(panel: Any, shown: Sequence[Any], spread: Spread) -> None:
    around = spread.percentiles()
    if around:
        panel.axvspan(around["p5"], around["p95"], color="#eeeeee", zorder=0, lw=0)
    for at, swing in enumerate(reversed(shown)):
        for value, colour in ((swing.at_low, LEAST_COLOUR), (swing.at_high, MOST_COLOUR)):
            if value is not None:
                panel.barh(at, value - spread.baseline, left=spread.baseline, color=colour, height=0.62)
    panel.axvline(spread.baseline, color="black", lw=0.7)
    _bars(panel, [f"{label(swing.name.removeprefix('device.'))} = {swing.value:g}" for swing in reversed(shown)])
    panel.set_xlabel(label(spread.metric))
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


def _bars(panel: Any, names: Sequence[str]) -> None:
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(-0.6, max(len(names), 2) - 0.4)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.grid(True, axis="x")


def _colouring(front: Front) -> str | None:
    """The axis with the fewest values, if those can be told apart and are no objective."""
    taken = {objective.name for objective in front.objectives}
    counts = {name: len(set(front.results.values(name))) for name in front.results.axes if name not in taken}
    few = {name: count for name, count in counts.items() if 1 < count <= len(COLOURS)}
    numeric = set(front.results.numeric())
    return min(few, key=lambda name: (name in numeric, few[name])) if few else None


def _scale(panel: Any, axis: Any, values: np.ndarray) -> None:
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low >= WIDE:
        getattr(panel, f"set_{axis.axis_name}scale")("log")
        axis.set_major_locator(LogLocator(numticks=8))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_minor_locator(AutoMinorLocator(2))
    axis.set_major_formatter(EngFormatter(sep=""))


def _save(figure: Any, file: Path) -> None:
    ending = file.suffix.lower().removeprefix(".")
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[ending]
    try:
        table.whole(file, lambda partial: figure.savefig(partial, format=ending, dpi=300, metadata=metadata))
    except OSError as error:
        raise PimsimError(f"cannot write {file}: {error.strerror or error}") from error
