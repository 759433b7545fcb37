"""`ragcache simulate`: a trace replayed through the knowledge cache alone, policy by policy."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ragcache.cost import parse_cost
from ragcache.policy import POLICIES
from ragcache.reuse.arrangement import ORDERS
from ragcache.simulate.simulation import Simulation, choices, report
from ragcache.simulate.trace import FORMATS, read_trace


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace", type=Path, required=True, metavar="FILE", help="the requests; may be .gz")
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        required=True,
        help="paths: JSON lines {t, path: [ids], sizes: [tokens]}; objects: CSV with columns obj and size, one "
        "document for each request; ragpulse: trace.jsonl[.gz] of RAGPulse, with passages.jsonl[.gz] beside it",
    )
    parser.add_argument(
        "--policy",
        required=True,
        metavar="P[,P…]",
        help=f"policies to compare: {', '.join(POLICIES)}, belady (which knows the future), module:Class for your own, "
        "or all for those that have a name",
    )
    parser.add_argument(
        "--capacity",
        required=True,
        metavar="N[,N…]",
        help="capacities of the cache to compare, in tokens (with objects, in the unit of size)",
    )
    parser.add_argument(
        "--cost",
        default="50,0.01",
        metavar="constant|a,b|PROFILE",
        help="time of a prefill: constant, 1 s each; a,b: a*new + b*((cached+new)^2 - cached^2) microseconds; or the "
        "file of a measured profile (default: %(default)s)",
    )
    parser.add_argument(
        "--admission",
        choices=("always", "competes"),
        default="always",
        help="whether a newcomer always stays, or only where the policy prefers it to what it would displace "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--host-capacity",
        type=int,
        default=0,
        metavar="N",
        help="capacity of a host tier below the cache, in the same unit; loading from it takes no time (default: none)",
    )
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default="retrieval",
        help="order of the documents of a request: retrieval, that of the trace, or tree, by what is cached (default: "
        "%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    parser.add_argument(
        "--curve",
        type=Path,
        metavar="FILE.png",
        help="plot hits and the time saved against the capacity (.png, .pdf or .svg)",
    )


def run(options: argparse.Namespace) -> int:
    """Prints a table or JSON. Raises ConfigError for options and TraceError for a trace that cannot be used."""
    policies, capacities = choices(options.policy, options.capacity, options.order)
    cost = parse_cost(options.cost)
    if options.curve is not None:
        from ragcache.simulate.curve import check_plotting

        check_plotting(options.curve)  # now, and not after minutes of replay
    trace = read_trace(options.trace, options.format)
    simulation = Simulation(trace, cost, options.admission, options.host_capacity, options.order)
    outcomes = simulation.run_all(policies, capacities)
    print(report(outcomes, as_json=options.json))
    if options.curve is not None:
        from ragcache.simulate.curve import draw

        draw(outcomes, options.curve, title=f"{options.trace.name}: {trace.documents:,} documents asked for")
        print(f"curves in {options.curve}", file=sys.stderr)
    return 0
