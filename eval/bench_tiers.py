"""Moves of a node's KV between tiers in figures: each against a plain copy, or a plain read or write of a file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ragcache.console import streams
from ragcache.engine.torch.kv import KVLayout, KVSpan
from ragcache.engine.torch.model import layout_of
from ragcache.engine.torch.transfer import KVTransfer
from ragcache.errors import RagCacheError
from ragcache.model.checkpoint import DEFAULT_MODEL, Checkpoint, load_config
from ragcache.storage.interface import DeviceKV
from ragcache.storage.lmdb_store import DiskStore
from ragcache.storage.record import Record, record_key
from ragcache.storage.stores import DiskRecords

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
            row = _row(name, stored, tokens * layout.bytes_per_token, seconds, plain_stored)
            rows.append(row | {"plain_seconds": plain, "ratio": plain / seconds})
    return rows


def measure_disk(layout: KVLayout, tokens: int, runs: int, folder: Path) -> list[dict[str, Any]]:
    """The same rows for moves to and from a real disk tier in `folder`. They are compared with a plain file of the
    bytes as stored: written and flushed to the disk, or read (page cache warm) into memory that is new every time."""
    rows = []
    for stored in dict.fromkeys([layout.dtype, torch.float16]):
        transfer, span = KVTransfer(layout, _DEVICE, stored), _filled(layout, tokens)
        size = tokens * transfer.stored_bytes_per_token
        name = str(stored).removeprefix("torch.")
        with DiskStore.open(folder / name, 4 * size + (64 << 20), b"bench") as disk:
            records, plain_file = DiskRecords(disk, transfer, b"bench"), folder / f"{name}.bin"
            ids = array("i", range(tokens))
            parent = records.root_key("default")
            record = Record(record_key(parent, ids), parent, "default", "node", ids, 0)

            def write(records: DiskRecords = records, record: Record = record, span: KVSpan = span) -> None:
                records.write(record, DeviceKV(span))

            def read(records: DiskRecords = records, key: bytes = record.key) -> object:
                return records.land(records.read(key, tokens))

            def plain_write(file: Path = plain_file, transfer: KVTransfer = transfer, span: KVSpan = span) -> None:
                with file.open("wb", buffering=0) as out:
                    out.write(transfer.payload(span))
                    os.fsync(out.fileno())

            def plain_read(file: Path = plain_file, transfer: KVTransfer = transfer) -> object:
                host = transfer.empty_host(tokens)
                with file.open("rb", buffering=0) as source:
                    source.readinto(host.buffer)
                return host

            for move, plain, label in ((write, plain_write, "device→disk"), (read, plain_read, "disk→device")):
                seconds, plain_seconds = _medians([move, plain], runs)
                rows.append(_row(label, stored, size, seconds, plain_seconds))
    return rows


def _row(move: str, stored: torch.dtype, size: int, seconds: float, plain_stored: float) -> dict[str, Any]:
    return {
        "move": move,
        "stored": str(stored).removeprefix("torch."),
        "bytes": size,
        "seconds": seconds,
        "bytes_per_second": size / seconds,
        "plain_stored_seconds": plain_stored,
        "stored_ratio": plain_stored / seconds,
    }


def _moves(transfer: KVTransfer, span: KVSpan) -> _Moves:
    host = transfer.to_host(span)
    return {"device→host": lambda: transfer.to_host(span), "host→device": lambda: transfer.to_device(host)}


def _plain_copies(layout: KVLayout, tokens: int) -> _Moves:
    """For each move, one plain copy of its bytes into new memory of the kind that the move fills."""
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
    """Seconds of each, taken in turn so that a busy moment falls on all alike; the first round is not counted."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(runs + 1):
        for work, seconds in zip(works, times, strict=True):
            begin = time.perf_counter()
            result = work()
            seconds.append(time.perf_counter() - begin)
            del result  # the memory goes back outside the measured time
    return [statistics.median(seconds[1:]) for seconds in times]


def _in_words(report: dict[str, Any]) -> str:
    lines = [f"a node of {report['tokens']:,} tokens, {report['rows'][0]['bytes'] / 1e6:.1f} MB on the device"]
    for row in report["rows"]:
        rate = f"{row['seconds'] * 1e3:6.2f} ms {row['bytes_per_second'] / 1e9:5.1f} GB/s"
        plain = f"{row['stored_ratio']:.2f}x a plain one of what is stored ({row['plain_stored_seconds'] * 1e3:.2f} ms)"
        if "ratio" in row:
            plain += f", {row['ratio']:.2f}x one as on the device ({row['plain_seconds'] * 1e3:.2f} ms)"
        lines.append(f"  {row['move']}  as {row['stored']:<9}{rate}  {plain}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.bench_tiers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--tokens", type=int, default=1000, metavar="N", help="tokens of the node (default: %(default)s)"
    )
    parser.add_argument("--runs", type=int, default=21, metavar="N", help="runs of each move (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="a folder on the disk to measure (default: that of temporary files)"
    )
    arguments = parser.parse_args(argv)
    if arguments.tokens < 1 or arguments.runs < 1:
        parser.error("--tokens and --runs must be at least 1")
    KVTransfer.initializer()
    try:
        config: Any = load_config(Checkpoint.resolve(DEFAULT_MODEL))
    except RagCacheError as error:
        print(f"bench_tiers: {error}", file=sys.stderr)
        return 1
    layout = layout_of(config.get_text_config(), torch.float32)
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, torch {torch.__version__}, one thread",
        "tokens": arguments.tokens,
        "runs": arguments.runs,
        "rows": measure(layout, arguments.tokens, arguments.runs),
    }
    with tempfile.TemporaryDirectory(prefix="ragcache-bench-", dir=arguments.folder) as folder:
        report["rows"] += measure_disk(layout, arguments.tokens, arguments.runs, Path(folder))
    print(json.dumps(report, indent=2) if arguments.json else _in_words(report))
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.bench_tiers"))
