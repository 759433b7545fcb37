"""Figure: a Pareto front, and lines of one quantity over another. It needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from pimsim.errors import WorkloadError
from pimsim.plot.style import COLOURS, MARKERS, STYLE, WIDE, WIDTH, Quantity, legend, save, scale, tick
from pimsim.sweep.pareto import Front
from pimsim.sweep.results import Results
from pimsim.sweep.sensitivity import levels

HEIGHT = 2.6  # inches
KIBI, BINARY = 1024, ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def draw_front(front: Front, file: Path, colour: str | None) -> None:
    """Draw all points, coloured by an axis (one with few values if None), and the front of the first two objectives."""
    results, (x, y) = front.results, front.objectives[:2]
    across, up = results.numbers(x.name), results.numbers(y.name)
    usable = np.isfinite(across) & np.isfinite(up)
    quantities = [Quantity.of(each.name, values[usable]) for each, values in ((x, across), (y, up))]
    across, up = across * quantities[0].factor, up * quantities[1].factor
    chosen = results.name(colour) if colour is not None else _colouring(front)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        panel = figure.subplots()
        handles: list[Any] = []
        if chosen is None:
            panel.scatter(across[usable], up[usable], s=9, color="#9a9a9a", linewidths=0, alpha=0.7)
        else:
            names, level = levels(results.values(chosen))
            for place, name in enumerate(names):
                own = usable & (level == place)
                marker: Any = {"marker": MARKERS[place % len(MARKERS)], "color": COLOURS[place % len(COLOURS)]}
                panel.scatter(across[own], up[own], s=11, linewidths=0, alpha=0.55, **marker)
                handles.append(Line2D([], [], ls="", ms=4, label=name, **marker))
        best = np.array(front.points)
        best = best[np.argsort(across[best], kind="stable")]
        circles: Any = {"color": "black", "lw": 0.9, "marker": "o", "ms": 4.6, "mfc": "none", "mew": 0.8}
        # what the front dominates begins at its steps; of three objectives this is but a shadow
        steps: Any = {"drawstyle": "steps-post" if x.sense == "min" else "steps-pre", "ls": "-"}
        steps = steps if len(front.objectives) == 2 else {"ls": ""}
        panel.plot(across[best], up[best], zorder=3, **circles, **steps)
        handles.append(Line2D([], [], label="Pareto front", ls=steps["ls"], **circles))
        for axis, values, quantity in zip((panel.xaxis, panel.yaxis), (across, up), quantities, strict=True):
            scale(panel, axis, values[usable])
            axis.set_label_text(quantity.label)
        panel.grid(True)
        if chosen is not None:
            handles.insert(0, Line2D([], [], ls="", label=f"{Quantity.of(chosen, []).label}:"))
        legend(figure, handles)
        save(figure, file)


def draw_lines(results: Results, x: str, y: str, by: str | None, file: Path) -> None:
    """Draw `y` over `x`, a line for each value of `by`, through the mean of the points that share both."""
    across, up = results.values(x), results.numbers(y)
    of_x, of_y = Quantity.of(results.name(x), _numbers(across)), Quantity.of(results.name(y), up[np.isfinite(up)])
    names, level = levels(results.values(by)) if by is not None else ([""], np.zeros(len(up), int))
    if len(names) > len(COLOURS):
        raise WorkloadError(f"{by} has {len(names)} values: lines of more than {len(COLOURS)} cannot be told apart")
    usable = np.isfinite(up)
    stops = list(dict.fromkeys(value for value, is_usable in zip(across, usable, strict=True) if is_usable))
    stops = sorted(stops) if len(_numbers(stops)) == len(stops) else stops
    apart = _evenly(stops)
    places = {value: float(index) if apart else value * of_x.factor for index, value in enumerate(stops)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        panel = figure.subplots()
        handles: list[Any] = []
        for series, name in enumerate(names):
            own: dict[float, list[float]] = {}
            for value, number, chosen in zip(across, up, usable & (level == series), strict=True):
                if chosen:
                    own.setdefault(places[value], []).append(number * of_y.factor)
            line: Any = {"marker": MARKERS[series], "color": COLOURS[series], "lw": 1.0, "ms": 3.6}
            panel.plot(sorted(own), [float(np.mean(own[place])) for place in sorted(own)], **line)
            handles.append(Line2D([], [], label=name, **line))
        if apart:
            panel.set_xticks(range(len(stops)), [_named(value, of_x.factor) for value in stops])
            panel.xaxis.set_minor_locator(NullLocator())
        else:
            scale(panel, panel.xaxis, np.array([places[value] for value in stops]))
        scale(panel, panel.yaxis, up[usable] * of_y.factor)
        panel.set_xlabel(of_x.label)
        panel.set_ylabel(of_y.label)
        panel.grid(True)
        if by is not None:
            handles.insert(0, Line2D([], [], ls="", label=f"{Quantity.of(results.name(by), []).label}:"))
            legend(figure, handles)
        save(figure, file)


def _numbers(values: list[Any]) -> list[float]:
    return [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]


def _evenly(stops: list[Any]) -> bool:
    """Whether these values stand at even distances: names, or a wide range from 0 on, where their own distances say
    nothing.
    """
    if len(_numbers(stops)) < len(stops):
        return True
    above = [value for value in stops if value > 0]
    return len(above) < len(stops) and bool(above) and max(above) >= WIDE * min(above)


def _named(value: Any, factor: float) -> str:
    if isinstance(value, int) and value >= KIBI and value & (value - 1) == 0:  # a size of a memory
        power = (value.bit_length() - 1) // 10
        return f"{value >> 10 * power}{BINARY[power - 1]}"
    return tick(value * factor) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _colouring(front: Front) -> str | None:
    """The axis with the fewest values, if their colours can be told apart and it is not an objective."""
    taken = {objective.name for objective in front.objectives}
    counts = {name: len(set(front.results.values(name))) for name in front.results.axes if name not in taken}
    few = {name: count for name, count in counts.items() if 1 < count <= len(COLOURS)}
    numeric = set(front.results.numeric())
    return min(few, key=lambda name: (name in numeric, few[name])) if few else None
