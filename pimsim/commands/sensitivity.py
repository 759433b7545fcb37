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
    """Adds `sensitivity`."""
    parser = commands.add_parser("sensitivity", help="which parameter of a sweep matters", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="of a sweep that has ended")
    parser.add_argument("--metric", metavar="NAME", help="the column that is looked at (the simulator's main one)")
    parser.add_argument("--factor", type=float, default=2.0, help="assumed parameters vary by, both ways (%(default)g)")
    parser.add_argument(
        "--samples", type=int, default=64, metavar="N", help="points in which all of them vary at once (%(default)s)"
    )
    parser.add_argument("--point", type=int, metavar="N", help="of the sweep, at which they vary (its middle)")
    parser.add_argument("--no-assumed", action="store_true", help="the axes alone, which simulates nothing")
    parser.add_argument("--workers", type=int, default=cores(), metavar="N", help="processes (%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--plot", type=Path, action="append", default=[], metavar="FILE", help="a .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the effects, and plots them."""
    check(options.plot)
    results = Results.open(options.folder)
    metric = options.metric or results.sweep.simulator.metric
    if not metric:
        raise WorkloadError(f"--metric is missing; there are {', '.join(results.numeric())}")
    metric = results.name(metric)
    found = effects(results, metric)
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
        plot_tornado(found, spread, metric, file)
    if options.json:
        told = {"metric": metric, "axes": [effect.as_dict() for effect in found]}
        print(json.dumps(told | {"assumed": spread.as_dict() if spread else None}, indent=1))
    else:
        print(in_words(metric, found, spread))
    return 0


def in_words(metric: str, found: Sequence[Effect], spread: Spread | None) -> str:
    """Some lines."""
    lines = [f"{metric}, mean by axis:"]
    for effect in found:
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
