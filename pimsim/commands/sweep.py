"""The command `pimsim sweep`: many points of a simulator, on all cores or a Ray cluster."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from pimsim.sweep.design import Sweep
from pimsim.sweep.executor import EXECUTORS, cores
from pimsim.sweep.results import Results
from pimsim.sweep.run import run_sweep

SHOWN = 3  # errors
EXAMPLE = """\
SWEEP.yaml, for instance:

  target: system                   # or attention, search, dram, or module:function of your own
  base: {config: heterrag, workload.requests: 100}
  axes:                            # fields by their dotted names: lists, or ranges
    workload.retrieve_every: [0, 64, 16]
    hbm.stacks: {from: 4, to: 16, steps: 4}
    link.latency_ns: {from: 50, to: 800, steps: 5, scale: log}
  sample: grid                     # or random, latin-hypercube, with points: 1000 and seed: 1

A point of system names its config, one of attention or search its device, one of dram its standard and trace.
"""


def add_parser(commands: Any) -> None:
    """Add this command to the subparsers of `pimsim`."""
    parser = commands.add_parser(
        "sweep",
        help="many points of a simulator, kept as Parquet",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP.yaml", help="what to simulate, at which points: see below")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the results; a sweep that was stopped goes on there",
    )
    parser.add_argument(
        "--workers", type=int, default=cores(), metavar="N", help="worker processes (default: %(default)s)"
    )
    parser.add_argument(
        "--executor", choices=tuple(EXECUTORS), default="processes", help="what runs them (default: %(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the sweep. Returns 1 if every point failed, else 0. PimsimError for what cannot be."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    results = run_sweep(
        Sweep.load(options.sweep),
        options.out,
        workers=options.workers,
        executed_by=options.executor,
        progress=not options.quiet,
    )
    failed = results.errors
    if options.json:
        print(json.dumps(summary(results), indent=1))
    else:
        print(f"{len(results)} points, {len(failed)} failed: {results.folder.results}")
        for point, error in list(failed.items())[:SHOWN]:
            print(f"point {point}: {error}", file=sys.stderr)
    return 1 if len(failed) == len(results) else 0


def summary(results: Results) -> dict[str, Any]:
    """The outcome as the command's JSON has it."""
    return {
        "results": str(results.folder.results),
        "points": len(results),
        "failed": len(results.errors),
        "errors": {str(point): error for point, error in list(results.errors.items())[:SHOWN]},
        "columns": results.table.column_names,
    }


def _terminated(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    sys.exit(128 + number)  # so that what cleans up runs, as it does for Ctrl-C
