"""The command `pimsim validate`: golden figures of other simulators beside ours."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pimsim.errors import FieldError
from pimsim.validation import GROUPS, SHIPPED, golden_folder


def add_parser(commands: Any) -> None:
    """Adds `validate`."""
    parser = commands.add_parser(
        "validate",
        help="golden figures of other simulators beside ours",
        description="Replays golden traces; the exit status is 1 if a figure is not in its band.",
    )
    parser.add_argument("--golden", metavar="DIR", type=Path, default=SHIPPED, help="(those that pimsim brings)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints a line for each figure as it is known."""
    folder = golden_folder(options.golden)
    checks = []
    if not options.json:
        print(f"{'figure':<44} {'references':>22} {'ours':>10} {'error':>9}  band")
    for group, made in GROUPS.items():
        if not (folder / group).is_dir():
            continue
        for check in made(folder):
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
