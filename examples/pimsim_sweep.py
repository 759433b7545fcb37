"""Sweep pimsim: where units of an HBM-PIM device should be. `python examples/pimsim_sweep.py --out sweep`

The plot of the front needs `pip install 'ragcache[plot]'`.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from pimsim import Objective, Sweep, pareto, plot_front, run_sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("sweep"), help="folder of the results (default: %(default)s)")
    options = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:  # said now, and not after the sweep
        sys.exit("pimsim_sweep.py draws with matplotlib: pip install 'ragcache[plot]'")
    sweep = Sweep.of(
        "attention",
        base={"device": "hbm3-attacc", "length": 4096, "heads": 32, "head_dim": 128, "fidelity": "closed"},
        axes={"level": ["bank", "bg", "buffer"], "device.stacks": [1, 2, 4], "batch": [1, 8]},
    )
    results = run_sweep(sweep, options.out)  # goes on where it was, if it was interrupted
    front = pareto(results, Objective("device.stacks", "min"), Objective("effective_tbps", "max"))
    for row in front.rows():
        print({name: row[name] for name in ("device.stacks", "level", "batch", "effective_tbps")})
    plot_front(front, options.out / "front.svg", colour="level")


if __name__ == "__main__":  # workers import the script
    main()
