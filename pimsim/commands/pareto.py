"""The command `pimsim pareto`: the points of a sweep that no other beats."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pimsim.plot.file import check
from pimsim.plot.plots import plot_front
from pimsim.sweep.pareto import Front, objectives, pareto
from pimsim.sweep.results import Results
from pimsim.sweep.table import POINT


def add_parser(commands: Any) -> None:
    """Add this command to the subparsers of `pimsim`."""
    parser = commands.add_parser("pareto", help="points of a sweep that no other beats", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a sweep that has ended")
    parser.add_argument("--x", required=True, metavar="NAME", help="column of which less is better")
    parser.add_argument("--y", required=True, metavar="NAME", help="column of which more is better")
    parser.add_argument(
        "--min", action="append", default=[], metavar="NAME", help="--x, --y or another: less is better"
    )
    parser.add_argument(
        "--max", action="append", default=[], metavar="NAME", help="--x, --y or another: more is better"
    )
    parser.add_argument(
        "--plot", type=Path, action="append", default=[], metavar="FILE", help="draw the front: .png, .svg or .pdf"
    )
    parser.add_argument("--colour", metavar="NAME", help="axis that colours the plot's points")
    parser.add_argument("--json", action="store_true", help="print the front as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the front, and plot it. PimsimError for what cannot be."""
    check(options.plot)
    front = pareto(Results.open(options.folder), *objectives(options.x, options.y, options.min, options.max))
    for file in options.plot:
        plot_front(front, file, colour=options.colour)
    print(json.dumps(as_dict(front), indent=1) if options.json else in_words(front))
    return 0


def as_dict(front: Front) -> dict[str, Any]:
    """The front as the command's JSON has it."""
    return {
        "points": len(front.results),
        "failed": len(front.results.errors),
        "objectives": {objective.name: objective.sense for objective in front.objectives},
        "front": front.rows(),
    }


def in_words(front: Front) -> str:
    """The front for the terminal: a heading, and a table with a line for each point."""
    rows = front.rows()
    senses = ", ".join(f"{objective.name} ({objective.sense})" for objective in front.objectives)
    names = [POINT, *(name for name in rows[0] if name != POINT)]
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join((f"{len(rows)} of {len(front.results)} points are on the front of {senses}:", *lines))


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
