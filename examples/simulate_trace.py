"""Simulate a trace: what more memory buys, as a curve. `python examples/simulate_trace.py --trace trace.jsonl`

Without a trace, one is made up. The plot needs `pip install 'ragcache[plot]'`.
"""

import argparse
import random
from pathlib import Path

import matplotlib

from ragcache import Simulation, Trace
from ragcache.cost import PolynomialCost
from ragcache.simulate.trace import FORMATS, read_trace

matplotlib.use("Agg")  # draws into files, needs no display
from matplotlib import pyplot

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
    for policy in POLICIES:
        saved = [100 * simulation.run(policy, capacity).seconds_saved_ratio for capacity in capacities]
        pyplot.plot(capacities, saved, marker="o", label=policy)
        print(f"{policy:<8}", *(f"{percent:6.1f} %" for percent in saved))
    pyplot.xscale("log", base=2)
    pyplot.xlabel("tokens of KV")
    pyplot.ylabel("prefill time saved, %")
    pyplot.legend()
    pyplot.savefig(options.out)
    print(f"drawn in {options.out}")


if __name__ == "__main__":
    main()
