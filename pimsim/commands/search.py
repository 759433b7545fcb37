"""The command `pimsim search`: a recorded graph search on a DIMM-PIM device."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pimsim import fields
from pimsim.dimm_pim.device import DEFAULT, DimmDevice
from pimsim.dimm_pim.search import simulate_search
from pimsim.dimm_pim.traversal import Traversal
from pimsim.errors import WorkloadError


def add_parser(commands: Any) -> None:
    """Add this command to the subparsers of `pimsim`."""
    parser = commands.add_parser("search", help="a recorded graph search on DIMM-PIM", description=__doc__)
    parser.add_argument(
        "--device", default=DEFAULT, metavar="NAME", help="a device, or a YAML file (default: %(default)s)"
    )
    parser.add_argument(
        "--traversal", type=Path, required=True, metavar="FILE", help="the recorded searches: CSV, plain or gzipped"
    )
    parser.add_argument(
        "--vertices", type=int, metavar="N", help="vertices that the shard holds (default: as the file says)"
    )
    parser.add_argument("--queries", type=int, metavar="N", help="search only the first N")
    parser.add_argument("--batch", type=int, metavar="N", help="queries that the host sends at once")
    parser.add_argument("--continuous", action="store_true", help="send the next query when one is done, not a batch")
    parser.add_argument("--dim", type=int, metavar="N", help="elements of a vector (default: as the file says)")
    parser.add_argument("--cache-bytes", type=int, metavar="N", help="size of each rank's vertex cache")
    parser.add_argument("--no-cache", action="store_true", help="the same as --cache-bytes 0")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the device"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Simulate the searches, and print their result. PimsimError for what cannot be."""
    traversal = Traversal.read(options.traversal, options.vertices)
    if options.queries is not None:
        if options.queries < 1:
            raise WorkloadError(f"--queries must be 1 or more, not {options.queries}")
        traversal = traversal.first(options.queries)
    result = simulate_search(traversal, DimmDevice.load(options.device, changes(options, traversal)))
    print(json.dumps(result.as_dict(), indent=2) if options.json else result.in_words())
    return 0


def changes(options: argparse.Namespace, traversal: Traversal) -> dict[str, Any]:
    """Fields of the device that the traversal's file, the options and --set change; the later of these prevails."""
    fields_set: dict[str, Any] = {}
    for name, value in (
        ("vectors.dim", traversal.dim if options.dim is None else options.dim),
        ("graph.neighbours", traversal.neighbours),
        ("workload.batch", options.batch),
        ("workload.admission", "continuous" if options.continuous else None),
        ("rpm.cache_bytes", 0 if options.no_cache else options.cache_bytes),
    ):
        if value is not None:
            fields_set[name] = value
    return fields_set | fields.settings(options.set, "tpm.lanes=4")
