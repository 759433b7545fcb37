"""The command `pimsim plot`: one column of a sweep over another, as lines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pimsim.plot.file import check
from pimsim.plot.plots import plot_lines
from pimsim.sweep.results import Results


def add_parser(commands: Any) -> None:
    """Add this command to the subparsers of `pimsim`."""
    parser = commands.add_parser("plot", help="one column of a sweep over another", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a sweep that has ended")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="plot to draw: .png, .svg or .pdf")
    parser.add_argument("--x", required=True, metavar="NAME", help="column, mostly an axis")
    parser.add_argument(
        "--y",
        required=True,
        metavar="NAME",
        help="column of numbers, of which the mean over points of equal --x is drawn",
    )
    parser.add_argument("--by", metavar="NAME", help="column, of which each value has a line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draw the lines. PimsimError for what cannot be."""
    check(options.files)
    results = Results.open(options.folder)
    for file in options.files:
        plot_lines(results, options.x, options.y, file, by=options.by)
    return 0
