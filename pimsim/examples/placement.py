"""Placement: units at the banks, at the bank groups or in the buffers of HBM, against the context's length."""

import sys
from pathlib import Path

from pimsim import Results, Sweep, plot_lines, run_sweep


def study(out: Path, longest: int = 32768, workers: int | None = None) -> Results:
    """Attention of LLaMA2-70B's layer for 16 requests on AccelHBM: what a token takes."""
    base = {"device": "hbm2-heterrag", "heads": 64, "kv_heads": 8, "head_dim": 128, "batch": 16, "fidelity": "closed"}
    lengths = {"from": 256, "to": longest, "steps": (longest // 256).bit_length(), "scale": "log"}
    sweep = Sweep.of("attention", base=base, axes={"level": ["bank", "bg", "buffer"], "length": lengths})
    results = run_sweep(sweep, out / "sweep", workers=workers, progress=True)
    for ending in ("svg", "png"):
        plot_lines(results, "length", "time_us", out / f"placement.{ending}", by="level")
    return results


if __name__ == "__main__":
    study(Path(sys.argv[1]))
