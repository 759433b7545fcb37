"""Cache and interval: what a larger vertex cache is worth, from one retrieval a request to one every 16 tokens."""

import sys
from pathlib import Path

from pimsim import Results, Sweep, plot_lines, run_sweep


def study(out: Path, requests: int = 256, workers: int | None = None) -> Results:
    """HeterRAG with vertex caches of 0 to 8 MB a rank: how long a retrieval takes, and how often a cache is hit."""
    axes = {
        "dimm.rpm.cache_bytes": [0, *(2**power for power in range(15, 24))],
        "workload.retrieve_every": [0, 64, 32, 16],
    }
    sweep = Sweep.of("system", base={"config": "heterrag", "workload.requests": requests}, axes=axes)
    results = run_sweep(sweep, out / "sweep", workers=workers, progress=True)
    for name, metric in (("cache_interval", "retrieval_mean_s"), ("hits", "vertex_cache_hit_ratio")):
        for ending in ("svg", "png"):
            plot_lines(results, "dimm.rpm.cache_bytes", metric, out / f"{name}.{ending}", by="workload.retrieve_every")
    return results


if __name__ == "__main__":
    study(Path(sys.argv[1]))
