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

A point of system names its config, of attention and search its device, of dram its standard and trace.
"""


def add_parser(commands: Any) -> None:
    """Adds `sweep`."""
    parser = commands.add_parser(
        "sweep",
        help="many points of a simulator, kept as Parquet",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP.yaml", help="target, base, axes, sample, points, seed")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for the results; one that was killed goes on there"
    )
    parser.add_argument("--workers", type=int, default=cores(), metavar="N", help="processes (%(default)s)")
    parser.add_argument("--executor", choices=tuple(EXECUTORS), default="processes", help="(%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--json", action="store_true", help="print what came of it as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Sweeps; the exit status is 1 if every point failed."""
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
    """As JSON has it."""
    return {
        "results": str(results.folder.results),
        "points": len(results),
        "failed": len(results.errors),
        "errors": {str(point): error for point, error in list(results.errors.items())[:SHOWN]},
        "columns": results.table.column_names,
    }


def _terminated(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    sys.exit(128 + number)  # so that what cleans up runs, as it does for Ctrl-C
