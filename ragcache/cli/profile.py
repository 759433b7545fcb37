"""`ragcache profile`: how long a prefill takes on this machine, measured on a grid of lengths."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="default", metavar="NAME", help="folder of a model, GGUF file or Hugging Face id"
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="torch threads (default: 0, one for each core)"
    )
    parser.add_argument(
        "--cached",
        metavar="N,N…",
        help="numbers of cached tokens to measure behind (default: up to the model's context, or 8192)",
    )
    parser.add_argument("--new", metavar="N,N…", help="numbers of tokens to compute behind them")
    parser.add_argument(
        "--runs", type=int, default=3, metavar="N", help="measure this often and take the median (default: 3)"
    )
    parser.add_argument(
        "--prefill-chunk",
        type=int,
        default=512,
        metavar="N",
        help="tokens computed in one step, as for `serve` (default: 512)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="profile to write (default: where `serve` finds it by itself)"
    )
    parser.add_argument("--json", action="store_true", help="print the profile instead of a table")


def run(options: argparse.Namespace) -> int:
    """Measures and writes the profile. Raises ConfigError or ModelError before it measures, if it cannot."""
    from tqdm import tqdm

    from ragcache.engine.cores import available_cores
    from ragcache.engine.torch.model import TorchModel
    from ragcache.engine.torch.neighbour_watch import NeighbourWatch
    from ragcache.engine.torch.prefill_profiler import Plan, PrefillProfiler, doubts, parse_axis, table
    from ragcache.model.checkpoint import Checkpoint
    from ragcache.whole_file import check_writable

    cached, new = (
        None if text is None else parse_axis(text, name)
        for text, name in ((options.cached, "--cached"), (options.new, "--new"))
    )
    # what cannot be done is refused before a model is loaded, and certainly before minutes of measuring
    plan = Plan(options.threads or available_cores(), options.runs, options.prefill_chunk, cached, new)
    if options.out is not None:
        check_writable(options.out)
    profiler = PrefillProfiler(TorchModel.load(Checkpoint.resolve(options.model)), plan)
    file = options.out
    if file is None:
        file = profiler.setting.file
        file.parent.mkdir(parents=True, exist_ok=True)
        check_writable(file)
    with NeighbourWatch(plan.threads):  # as the engine that the profile is for
        seconds = profiler.warm_up()
        points = len(profiler.grid.cached) * len(profiler.grid.new)
        print(f"measuring {points} points {plan.runs} times: about {_duration(seconds)}", file=sys.stderr, flush=True)
        with tqdm(total=profiler.tokens, unit="tokens", unit_scale=True, disable=None, leave=False) as bar:
            profile = profiler.measure(bar.update)
    profile.save(file)
    print(profile.as_json() if options.json else table(profile))
    if doubt := doubts(profile):
        print(f"{doubt}: was the machine busy? Measure again when it is quiet", file=sys.stderr)
    print(f"profile in {file}", file=sys.stderr)
    return 0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{max(1, rest)} s"
