"""The command `pimsim run`: a whole system over its workload, and how far its answer can be trusted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pimsim import fields
from pimsim.errors import PimsimError
from pimsim.sweep.executor import cores
from pimsim.sweep.uncertainty import Uncertainty, uncertainty
from pimsim.system.described.config import FOLDER, SystemConfig
from pimsim.system.run.simulation import run as simulate

# whose uncertainty is printed
METRICS = ("throughput_rps", "latency_mean_s", "ttft_mean_s", "energy_j_a_request", "cost_usd", "area_mm2")
# fields that stay when what is assumed varies: the workload, and how much there is of each part
FIXED = (
    "workload.",
    "search.sampled",
    "retrieval.devices",
    "generation.devices",
    "hbm.stacks",
    "hbm.channels",
    "dimm.organisation.",
    "dimm.workload.",
    "dimm.vectors.dim",
)


def add_parser(commands: Any) -> None:
    """Add this command to the subparsers of `pimsim`."""
    parser = commands.add_parser("run", help="a retrieval-augmented system over a workload", description=__doc__)
    parser.add_argument("config", metavar="CONFIG", help=f"a YAML file, or one of {', '.join(fields.shipped(FOLDER))}")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the system, as workload.batch=8",
    )
    parser.add_argument(
        "--timeline", type=Path, metavar="FILE", help="write what each unit does when, as a Chrome trace"
    )
    parser.add_argument(
        "--spread",
        type=int,
        default=0,
        metavar="N",
        help="run N times more, with assumed parameters 0.5 to 2 times their value",
    )
    parser.add_argument(
        "--workers", type=int, default=cores(), metavar="N", help="processes of --spread (default: %(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar of --spread")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the system, and print its result. PimsimError for what cannot be."""
    changes = fields.settings(options.set, "workload.batch=8")
    result = simulate(SystemConfig.load(options.config, changes), timeline=options.timeline is not None)
    if options.timeline is not None:
        try:
            options.timeline.write_text(json.dumps(result.trace()), encoding="utf-8")
        except OSError as error:
            raise PimsimError(f"cannot write {options.timeline}: {error.strerror}") from error
    around = _around(options, changes) if options.spread else None
    if options.json:
        report = result.as_dict()
        print(json.dumps(report | {"uncertainty": around.as_dict()} if around else report, indent=2))
        return 0
    print(result.in_words())
    if around:
        print(around.in_words())
    return 0


def _around(options: argparse.Namespace, changes: dict[str, Any]) -> Uncertainty:
    base = {"config": options.config, **changes}
    return uncertainty(
        "system",
        base,
        METRICS,
        samples=options.spread,
        kept=FIXED,
        workers=options.workers,
        progress=not options.quiet,
    )
