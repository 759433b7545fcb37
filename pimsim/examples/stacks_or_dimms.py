"""Stacks or DIMMs: what a fixed sum buys most throughput with, HBM stacks or AccelDIMMs."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pimsim import Results, Sweep, SystemConfig, plot_lines, run_sweep, system_cost_usd

BUDGETS = (20_000, 30_000, 45_000, 60_000)  # USD


def mixes(budget: int) -> Iterator[dict[str, Any]]:
    """For each number of AccelDIMMs the most stacks that the remaining sum buys, from 3 on: 2 hold no 7B model."""
    stacks, dimms = 3, 1
    while True:
        mix = {"name": f"{budget // 1000}k$", "retrieval.devices": dimms, "hbm.stacks": stacks}
        if system_cost_usd(SystemConfig.load("heterrag", mix)) <= budget:
            stacks += 1
        elif stacks == 3:
            return
        else:
            yield {**mix, "hbm.stacks": stacks - 1}
            stacks, dimms = 3, dimms + 1


def study(out: Path, requests: int = 256, budgets: Sequence[int] = BUDGETS, workers: int | None = None) -> Results:
    """HeterRAG that retrieves every 16 tokens, where searches matter most."""
    base = {"config": "heterrag", "workload.requests": requests, "workload.retrieve_every": 16}
    points = [mix for budget in budgets for mix in mixes(budget)]
    results = run_sweep(
        Sweep.of("system", base=base, sample="list", points=points), out / "sweep", workers=workers, progress=True
    )
    for ending in ("svg", "png"):
        plot_lines(results, "retrieval.devices", "throughput", out / f"stacks_or_dimms.{ending}", by="name")
    return results


if __name__ == "__main__":
    study(Path(sys.argv[1]))
