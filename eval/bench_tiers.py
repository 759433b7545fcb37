"""Moves of a node's KV between tiers in figures: each against a plain copy of as many bytes, side by side."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ragcache.engine.checkpoint import DEFAULT_MODEL, Checkpoint, load_config
from ragcache.engine.kv import KVLayout, KVSpan
from ragcache.engine.model import layout_of
from ragcache.engine.transfer import KVTransfer
from ragcache.errors import RagCacheError

_DEVICE = torch.device("cpu")
_Moves = Mapping[str, Callable[[], object]]


def measure(layout: KVLayout, tokens: int, runs: int) -> list[dict[str, Any]]:
    """A row for each move and stored dtype, of a node of `tokens`. One thread, medians of `runs`.

    `plain_seconds` is one `copy_` of the KV in the device's dtype, `plain_stored_seconds` one of the bytes as stored;
    like the move itself, each goes to memory that is new every time.
    """
    rows = []
    in_device_dtype = _plain_copies(layout, tokens)
    for stored in dict.fromkeys([layout.dtype, torch.float16]):
        moves = _moves(KVTransfer(layout, _DEVICE, stored), _filled(layout, tokens))
        as_stored = _plain_copies(replace(layout, dtype=stored), tokens)
        for name, move in moves.items():
            seconds, plain, plain_stored = _medians([move, in_device_dtype[name], as_stored[name]], runs)
            bytes_moved = tokens * layout.bytes_per_token
            rows.append(
                {
                    "move": name,
                    "stored": str(stored).removeprefix("torch."),
                    "bytes": bytes_moved,
                    "seconds": seconds,
                    "bytes_per_second": bytes_moved / seconds,
                    "plain_seconds": plain,
                    "ratio": plain / seconds,
                    "plain_stored_seconds": plain_stored,
                    "stored_ratio": plain_stored / seconds,
                }
            )
    return rows


def _moves(transfer: KVTransfer, span: KVSpan) -> _Moves:
    """What is measured. A disk tier's moves belong here, each with its own plain copy in `_plain_copies`.

    From disk that is a record read into `empty_host(tokens).buffer`, and `adopt`.
    """
    host = transfer.to_host(span)
    return {"device→host": lambda: transfer.to_host(span), "host→device": lambda: transfer.to_device(host)}


def _plain_copies(layout: KVLayout, tokens: int) -> _Moves:
    """The same moves as one copy each, into new memory of the kind that the move fills."""
    exact, span = KVTransfer(layout, _DEVICE), _filled(layout, tokens)
    host = exact.to_host(span)
    return {
        "device→host": lambda: exact.empty_host(tokens).data.copy_(span.data),
        "host→device": lambda: layout.allocate(tokens, _DEVICE).data.copy_(host.data),
    }


def _filled(layout: KVLayout, tokens: int) -> KVSpan:
    span = layout.allocate(tokens, _DEVICE)
    span.data.normal_(generator=torch.Generator().manual_seed(0))
    span.length = tokens
    return span


def _medians(works: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """Seconds of each, taken in turn so that the machine's moods fall on all alike; the first round is not counted."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(runs + 1):
        for work, seconds in zip(works, taken, strict=True):
            begin = time.perf_counter()
            result = work()
            seconds.append(time.perf_counter() - begin)
            del result  # the memory goes back outside the measured time
    return [statistics.median(seconds[1:]) for seconds in taken]


def _in_words(report: dict[str, Any]) -> str:
    lines = [f"a node of {report['tokens']:,} tokens, {report['rows'][0]['bytes'] / 1e6:.1f} MB on the device"]
    for row in report["rows"]:
        rate = f"{row['seconds'] * 1e3:6.2f} ms {row['bytes_per_second'] / 1e9:5.1f} GB/s"
        lines += [
            f"  {row['move']}  as {row['stored']:<9}{rate}  {row['ratio']:.2f}x a plain copy"
            f" ({row['plain_seconds'] * 1e3:.2f} ms), {row['stored_ratio']:.2f}x one of the bytes as stored"
        ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.bench_tiers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--tokens", type=int, default=1000, metavar="N", help="of the node (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=21, metavar="N", help="of each move (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.tokens < 1 or arguments.runs < 1:
        parser.error("--tokens and --runs must be at least 1")
    KVTransfer.initializer()
    try:
        config: Any = load_config(Checkpoint.resolve(DEFAULT_MODEL))
    except RagCacheError as error:
        print(f"bench_tiers: {error}", file=sys.stderr)
        return 1
    report = {
        "machine": f"{platform.machine()}, torch {torch.__version__}, one thread",
        "tokens": arguments.tokens,
        "runs": arguments.runs,
        "rows": measure(layout_of(config.get_text_config(), torch.float32), arguments.tokens, arguments.runs),
    }
    print(json.dumps(report, indent=2) if arguments.json else _in_words(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
