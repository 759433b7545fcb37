"""The command `pimsim dram`: a trace of requests through a DRAM standard."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pimsim import fields
from pimsim.dram.controller import PAGES, Controller, simulate
from pimsim.dram.mapping import FOLDER, AddressMapping
from pimsim.dram.trace import Trace
from pimsim.standard import Standard, names


def add_parser(commands: Any) -> None:
    """Add this command to the subparsers of `pimsim`."""
    defaults = Controller()
    parser = commands.add_parser(
        "dram",
        help="a trace of requests through a DRAM standard",
        description="Timing and energy of a trace of reads and writes, by a bank-state model.",
    )
    parser.add_argument("--standard", required=True, help=f"{', '.join(names())}, or a YAML file")
    parser.add_argument(
        "--trace",
        required=True,
        metavar="FILE",
        help="CSV, plain or gzipped: cycle,op,channel,rank,bg,bank,row,col (col in bursts), or cycle,op,address",
    )
    parser.add_argument(
        "--mapping",
        default="row-bank-column",
        help=f"where addresses lie: {', '.join(fields.shipped(FOLDER))}, or a YAML file (default: %(default)s)",
    )
    refresh = parser.add_mutually_exclusive_group()
    refresh.add_argument("--no-refresh", action="store_true", help="issue no refreshes")
    refresh.add_argument(
        "--refresh",
        choices=("all-bank", "per-bank"),
        default=defaults.refresh,
        help="what is refreshed at once (default: %(default)s)",
    )
    parser.add_argument("--page", choices=tuple(PAGES), default=defaults.page, help="row policy (default: %(default)s)")
    parser.add_argument(
        "--queue",
        type=int,
        default=defaults.queue,
        help="reads that may wait, and as many writes (default: %(default)s)",
    )
    parser.add_argument(
        "--row-hit-cap",
        type=int,
        default=defaults.row_hit_cap,
        help="columns of a row before an older request for another row goes first (default: %(default)s)",
    )
    parser.add_argument(
        "--energy", metavar="PRESET", help="table of energies, or a YAML file (default: the standard's own)"
    )
    parser.add_argument("--commands", metavar="FILE", help="write all commands as CSV")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Simulate the trace, and print its result. PimsimError for what cannot be."""
    standard = Standard.load(options.standard)
    controller = Controller(
        queue=options.queue,
        row_hit_cap=options.row_hit_cap,
        page=options.page,
        refresh="none" if options.no_refresh else options.refresh,
    )
    trace = Trace.read(options.trace, standard.organisation, AddressMapping.load(options.mapping))
    result = simulate(trace, standard, controller, energy=options.energy, commands=bool(options.commands))
    if options.commands and result.commands is not None:
        result.commands.write(options.commands)
    print(json.dumps(result.as_dict(), indent=1) if options.json else result.in_words())
    return 0
