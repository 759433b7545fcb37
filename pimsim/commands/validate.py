"""The command `pimsim validate`: golden figures of other simulators beside ours."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pimsim.errors import FieldError
from pimsim.validation import GROUPS, SHIPPED, golden_folder


def add_parser(commands: Any) -> None:
    """Add this command to the subparsers of `pimsim`."""
    parser = commands.add_parser(
        "validate",
        help="golden figures of other simulators beside ours",
        description="Replay golden traces, and compare. The exit status is 1 if a figure is outside its band.",
    )
    parser.add_argument(
        "--golden",
        metavar="DIR",
        type=Path,
        default=SHIPPED,
        help="folder of golden figures (default: those that pimsim brings)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a line for each figure as soon as it is known. Returns 1 if one is outside its band, else 0."""
    folder = golden_folder(options.golden)
    checks = []
    if not options.json:
        print(f"{'figure':<44} {'references':>22} {'ours':>10} {'error':>9}  band")
    for group, checks_of in GROUPS.items():
        if not (folder / group).is_dir():
            continue
        for check in checks_of(folder):
            checks.append(check)
            if not options.json:
                print(check.in_words(), flush=True)
    outside = [check for check in checks if not check.accepted]
    if options.json:
        print(json.dumps({"checks": [check.as_dict() for check in checks], "outside": len(outside)}, indent=1))
    else:
        mean = sum(abs(check.error_pct) for check in checks) / len(checks) if checks else 0.0
        print(f"{len(checks)} figures, mean error {mean:.2f} %, {len(outside)} outside their bands")
    if not checks:
        raise FieldError(f"{folder}: there are no golden figures: no folder {' or '.join(GROUPS)} in it")
    return 1 if outside else 0
