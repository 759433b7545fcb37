"""`pimsim search`: a recorded graph search on a DIMM-PIM device."""

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
    """Add the command to a parser's."""
    found = commands.add_parser("search", help="a recorded graph search on DIMM-PIM", description=__doc__)
    found.add_argument("--device", default=DEFAULT, metavar="NAME", help="or a YAML file (default: %(default)s)")
    found.add_argument("--traversal", type=Path, required=True, metavar="FILE", help="CSV, plain or gzipped")
    found.add_argument("--vertices", type=int, metavar="N", help="that the shard holds (default: what the file says)")
    found.add_argument("--queries", type=int, metavar="N", help="only the first N")
    found.add_argument("--batch", type=int, metavar="N", help="queries that the host sends at once")
    found.add_argument("--continuous", action="store_true", help="send the next query when one is done, not a batch")
    found.add_argument("--dim", type=int, metavar="N", help="elements of a vector (default: what the file says)")
    found.add_argument("--cache-bytes", type=int, metavar="N", help="of each rank's vertex cache")
    found.add_argument("--no-cache", action="store_true", help="the same as --cache-bytes 0")
    found.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any field of the device")
    found.add_argument("--json", action="store_true", help="print the result as JSON")
    found.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Simulate and print. PimsimError for what cannot be."""
    traversal = Traversal.read(options.traversal, options.vertices)
    if options.queries is not None:
        if options.queries < 1:
            raise WorkloadError(f"--queries must be 1 or more, not {options.queries}")
        traversal = traversal.first(options.queries)
    result = simulate_search(traversal, DimmDevice.load(options.device, changes(options, traversal)))
    print(json.dumps(result.as_dict(), indent=2) if options.json else result.in_words())
    return 0


def changes(options: argparse.Namespace, traversal: Traversal) -> dict[str, Any]:
    """Fields that the traversal's file sets, then the options, then --set: the later prevails."""
    found: dict[str, Any] = {}
    for name, value in (
        ("vectors.dim", traversal.dim if options.dim is None else options.dim),
        ("graph.neighbours", traversal.neighbours),
        ("workload.batch", options.batch),
        ("workload.admission", "continuous" if options.continuous else None),
        ("rpm.cache_bytes", 0 if options.no_cache else options.cache_bytes),
    ):
        if value is not None:
            found[name] = value
    return found | fields.settings(options.set, "tpm.lanes=4")
