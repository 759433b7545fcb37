"""The command `pimsim sensitivity`: which axis of a sweep matters, and which assumed parameter."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pimsim.errors import WorkloadError
from pimsim.plot.file import check
from pimsim.plot.plots import plot_tornado
from pimsim.sweep.executor import cores
from pimsim.sweep.results import Results
from pimsim.sweep.sensitivity import Effect, Spread, assumed_spread, effects


def add_parser(commands: Any) -> None:
    """Add this command to the subparsers of `pimsim`."""
    parser = commands.add_parser("sensitivity", help="which parameter of a sweep matters", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a sweep that has ended")
    parser.add_argument("--metric", metavar="NAME", help="column to explain (default: the simulator's main one)")
    parser.add_argument(
        "--factor", type=float, default=2.0, help="how far assumed parameters vary, both ways (default: %(default)g)"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=64,
        metavar="N",
        help="points at which all of them vary at once (default: %(default)s)",
    )
    parser.add_argument(
        "--point", type=int, metavar="N", help="point of the sweep around which they vary (default: its middle)"
    )
    parser.add_argument("--no-assumed", action="store_true", help="axes alone: simulate nothing")
    parser.add_argument(
        "--workers", type=int, default=cores(), metavar="N", help="worker processes (default: %(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    parser.add_argument(
        "--plot", type=Path, action="append", default=[], metavar="FILE", help="draw both: .png, .svg or .pdf"
    )
    parser.add_argument("--json", action="store_true", help="print the effects as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the effects, and plot them. PimsimError for what cannot be."""
    check(options.plot)
    results = Results.open(options.folder)
    metric = options.metric or results.sweep.simulator.metric
    if not metric:
        raise WorkloadError(f"--metric is missing; there are {', '.join(results.numeric())}")
    metric = results.name(metric)
    by_axis = effects(results, metric)
    spread = None
    if not options.no_assumed:
        spread = assumed_spread(
            results,
            metric,
            factor=options.factor,
            samples=options.samples,
            point=options.point,
            workers=options.workers,
            progress=not options.quiet,
        )
    for file in options.plot:
        plot_tornado(by_axis, spread, metric, file)
    if options.json:
        report = {"metric": metric, "axes": [effect.as_dict() for effect in by_axis]}
        print(json.dumps(report | {"assumed": spread.as_dict() if spread else None}, indent=1))
    else:
        print(in_words(metric, by_axis, spread))
    return 0


def in_words(metric: str, by_axis: Sequence[Effect], spread: Spread | None) -> str:
    """The effects for the terminal: a line for each axis and each assumed parameter."""
    lines = [f"{metric}, mean by axis:"]
    for effect in by_axis:
        lines.append(
            f"  {effect.name:<32} {effect.least:>11.6g} at {effect.least_at:<16} {effect.most:>11.6g} at"
            f" {effect.most_at:<16} {effect.variance:>5.0%} of the variance"
        )
    if spread is None:
        return "\n".join(lines)
    by = f"times {1 / spread.factor:g} and {spread.factor:g}"
    lines.append(f"{metric} is {spread.baseline:.6g}; with assumed parameters {by}:")
    for swing in spread.swings:
        if not swing.size(spread.baseline):
            continue
        low, high = (f"{value:.6g}" if value is not None else "fails" for value in (swing.at_low, swing.at_high))
        lines.append(f"  {swing.name:<44} {swing.value:>9g}  {low:>11} {high:>11}")
    idle = [swing.name for swing in spread.swings if not swing.size(spread.baseline)]
    if idle:
        lines.append(f"  without effect: {', '.join(idle)}")
    around = spread.percentiles()
    if around:
        shown = ", ".join(f"{name} {value:.6g}" for name, value in around.items())
        lines.append(f"  all at once, {len(spread.samples)} samples, {spread.failed} of which failed: {shown}")
    if spread.fixed:
        lines.append(f"  not varied: {', '.join(spread.fixed)}")
    return "\n".join(lines)
