"""Simulate a trace: what more memory buys, as a curve. `python examples/simulate_trace.py --trace trace.jsonl`

Without a trace, one is made up. The plot needs `pip install 'ragcache[plot]'`.
"""

import argparse
import random
import sys
from pathlib import Path

from ragcache import Simulation, Trace
from ragcache.cost import PolynomialCost
from ragcache.simulate.trace import FORMATS, read_trace

try:
    from matplotlib.figure import Figure
except ImportError:
    sys.exit("simulate_trace.py draws with matplotlib: pip install 'ragcache[plot]'")

POLICIES = ("lru", "pgdsf", "s3fifo", "belady")


def made_up(requests: int = 3_000, documents: int = 500) -> Trace:
    """Requests for three of `documents`, whose popularity falls with their rank."""
    rng = random.Random(7)
    weights = [1 / (1 + rank) ** 0.9 for rank in range(documents)]
    trace = Trace()
    for _ in range(requests):
        trace.add([(str(document), 500) for document in rng.choices(range(documents), weights, k=3)])
    return trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="default: a made-up one")
    parser.add_argument("--format", choices=tuple(FORMATS), default="paths")
    parser.add_argument("--out", type=Path, default=Path("curve.svg"), help="default: %(default)s")
    options = parser.parse_args()
    trace = made_up() if options.trace is None else read_trace(options.trace, options.format)
    simulation = Simulation(trace, PolynomialCost(a=50, b=0.01))
    capacities = [max(trace.tokens) * 2**power for power in range(1, 8)]
    figure = Figure()  # draws into files, needs no display
    axes = figure.add_subplot()
    for policy in POLICIES:
        saved = [100 * simulation.run(policy, capacity).seconds_saved_ratio for capacity in capacities]
        axes.plot(capacities, saved, marker="o", label=policy)
        print(f"{policy:<8}", *(f"{percent:6.1f} %" for percent in saved))
    axes.set_xscale("log", base=2)
    axes.set_xlabel("tokens of KV")
    axes.set_ylabel("prefill time saved, %")
    axes.legend()
    figure.savefig(options.out)
    print(f"drawn in {options.out}")


if __name__ == "__main__":
    main()
