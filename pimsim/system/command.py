"""The command `pimsim run`: a whole system over its workload."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pimsim import fields
from pimsim.errors import FieldError, PimsimError
from pimsim.system.config import FOLDER, SystemConfig
from pimsim.system.simulation import run as simulate


def add_parser(commands: Any) -> None:
    """Add this command to the subparsers of `pimsim`."""
    parser = commands.add_parser("run", help="a retrieval-augmented system over a workload", description=__doc__)
    parser.add_argument("config", metavar="CONFIG", help=f"a YAML file, or one of {', '.join(fields.shipped(FOLDER))}")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field, as workload.batch=8"
    )
    parser.add_argument("--timeline", type=Path, metavar="FILE", help="write what each unit did as a Chrome trace")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run and print. PimsimError for what cannot be."""
    result = simulate(SystemConfig.load(options.config, settings(options.set)), timeline=options.timeline is not None)
    if options.timeline is not None:
        try:
            options.timeline.write_text(json.dumps(result.trace()), encoding="utf-8")
        except OSError as error:
            raise PimsimError(f"cannot write {options.timeline}: {error.strerror}") from error
    print(json.dumps(result.as_dict(), indent=2) if options.json else result.in_words())
    return 0


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Fields by dotted name, of FIELD=VALUE; values are read as YAML. FieldError for what is none."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise FieldError(f"--set takes FIELD=VALUE, as --set workload.batch=8, not {pair!r}")
        try:
            found[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise FieldError(f"--set {name}: {text!r} is not a value") from error
    return found
