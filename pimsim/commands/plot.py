"""The command `pimsim plot`: one column of a sweep over another, as lines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pimsim.plot.file import check
from pimsim.plot.plots import plot_lines
from pimsim.sweep.results import Results


def add_parser(commands: Any) -> None:
    """Adds `plot`."""
    parser = commands.add_parser("plot", help="one column of a sweep over another", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="of a sweep that has ended")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="what is drawn: .png, .svg or .pdf")
    parser.add_argument("--x", required=True, metavar="NAME", help="a column, mostly an axis")
    parser.add_argument("--y", required=True, metavar="NAME", help="a column of numbers; its mean over equal --x")
    parser.add_argument("--by", metavar="NAME", help="a column, each value of which gets a line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draws."""
    check(options.files)
    results = Results.open(options.folder)
    for file in options.files:
        plot_lines(results, options.x, options.y, file, by=options.by)
    return 0
