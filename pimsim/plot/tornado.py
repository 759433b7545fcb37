"""Tornado: bars of what each parameter moves. It needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from pimsim.plot.style import COLOURS, STYLE, WIDTH, Quantity, save, tick
from pimsim.sweep.sensitivity import Effect, Spread, Swing

BARS = 12
LETTER, SHARES = 0.024, 0.13  # of a tornado's width: a letter of a level's name, the column on the right
ROUNDS = 20
LEAST_COLOUR, MOST_COLOUR = COLOURS[0], COLOURS[4]
TIMES = "\N{MULTIPLICATION SIGN}"


def draw_tornado(effects: Sequence[Effect], spread: Spread | None, metric: str, file: Path) -> None:
    """Draw a panel of the axes' effects, if there are any, and one of the assumed parameters, if they were varied."""
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
        save(figure, file)


def _effects(panel: Any, shown: Sequence[Effect], metric: str) -> None:
    quantity = Quantity.of(metric, [effect.most for effect in shown])
    for bar, effect in enumerate(reversed(shown)):
        least, most = effect.least * quantity.factor, effect.most * quantity.factor
        panel.barh(bar, most - least, left=least, color=LEAST_COLOUR, height=0.62)
        for value, text, side, gap in ((least, effect.least_at, "right", -2), (most, effect.most_at, "left", 2)):
            panel.annotate(text, (value, bar), (gap, 0), textcoords="offset points", ha=side, va="center", fontsize=6)
        share = f"{effect.variance:.0%}"
        panel.annotate(share, (1.0, bar), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=7)
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
    for bar, swing in enumerate(reversed(shown)):
        for value, colour in ((swing.at_low, LEAST_COLOUR), (swing.at_high, MOST_COLOUR)):
            if value is not None:
                panel.barh(bar, value * quantity.factor - baseline, left=baseline, color=colour, height=0.62)
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


def _bars(panel: Any, names: Sequence[str]) -> None:
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(-0.6, max(len(names), 2) - 0.4)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.xaxis.set_major_formatter(FuncFormatter(tick))
    panel.grid(True, axis="x")
