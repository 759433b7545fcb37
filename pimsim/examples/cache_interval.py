"""Cache and interval: what a larger vertex cache is worth, from one retrieval a request to one every 16 tokens."""

import sys
from pathlib import Path

from pimsim import Front, Objective, Sweep, pareto, plot_front, run_sweep


def study(out: Path, requests: int = 256, workers: int | None = None) -> Front:
    """HeterRAG with vertex caches of 0 to 1 MB a rank."""
    axes = {
        "dimm.rpm.cache_bytes": [0, 32768, 65536, 131072, 262144, 524288, 1048576],
        "workload.retrieve_every": [0, 64, 32, 16],
    }
    sweep = Sweep.of("system", base={"config": "heterrag", "workload.requests": requests}, axes=axes)
    results = run_sweep(sweep, out / "sweep", workers=workers, progress=True)
    front = pareto(results, Objective("dimm.rpm.cache_bytes", "min"), Objective("throughput", "max"))
    plot_front(front, out / "cache_interval.svg", colour="workload.retrieve_every")
    plot_front(front, out / "cache_interval.png", colour="workload.retrieve_every")
    return front


if __name__ == "__main__":
    study(Path(sys.argv[1]))
