"""Stacks or DIMMs: what a given sum buys most throughput with, HBM stacks or AccelDIMMs."""

import sys
from pathlib import Path

from pimsim import Front, Objective, Sweep, pareto, plot_front, run_sweep


def study(out: Path, requests: int = 256, workers: int | None = None) -> Front:
    """HeterRAG with retrieval every 64 tokens; of each sum, the front has the best that costs no more."""
    base = {"config": "heterrag", "workload.requests": requests, "workload.retrieve_every": 64}
    axes = {"retrieval.devices": [4, 6, 8, 12, 16, 32], "hbm.stacks": [4, 6, 8, 12, 16]}
    results = run_sweep(Sweep.of("system", base=base, axes=axes), out / "sweep", workers=workers, progress=True)
    front = pareto(results, Objective("cost", "min"), Objective("throughput", "max"))
    plot_front(front, out / "stacks_or_dimms.svg", colour="hbm.stacks")
    plot_front(front, out / "stacks_or_dimms.png", colour="hbm.stacks")
    return front


if __name__ == "__main__":
    study(Path(sys.argv[1]))
