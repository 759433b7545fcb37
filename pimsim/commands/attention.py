"""The command `pimsim attention`: one attention layer of decoding on an HBM-PIM device."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from pimsim import fields
from pimsim.errors import PimsimError, WorkloadError
from pimsim.hbm_pim.attention import FIDELITIES, Attention, AttentionResult, attention, attention_commands
from pimsim.hbm_pim.device import Device
from pimsim.hbm_pim.kernel import CommandLog
from pimsim.hbm_pim.mapping import LEVELS

SCOPES = {"bank": "AB", "bg": "SB", "buffer": "PB"}  # all banks, the same bank of every bank group, one bank
KINDS = ("MAC", "WR_GB", "MV_SB", "SFM", "MV_GB", "BARRIER", "WR", "ACT", "PRE", "REF")
SCOPED = ("MAC", "ACT", "PRE")


def add_parser(commands: Any) -> None:
    """Add this command to the subparsers of `pimsim`."""
    parser = commands.add_parser(
        "attention", help="one attention layer of decoding on an HBM-PIM device", description=__doc__
    )
    parser.add_argument(
        "--device", default="hbm3-attacc", help="name of a device, or a YAML file (default: %(default)s)"
    )
    parser.add_argument(
        "--level", default="bank", help=f"where the units are: {', '.join(LEVELS)} (default: %(default)s)"
    )
    parser.add_argument("--length", type=int, required=True, help="tokens of each request")
    parser.add_argument("--heads", type=int, required=True, help="query heads")
    parser.add_argument(
        "--kv-heads", type=int, help="heads of K and V, shared by equal groups of queries (default: as many as --heads)"
    )
    parser.add_argument("--head-dim", type=int, required=True, help="numbers of a head")
    parser.add_argument("--bytes", type=int, default=2, help="bytes of a number: 1, 2 or 4 (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="requests of that length (default: %(default)s)")
    parser.add_argument("--stacks", type=int, help="stacks that share the KV heads (default: the device's)")
    parser.add_argument("--no-power-limit", action="store_true", help="issue MACs as often as the columns allow")
    parser.add_argument("--no-refresh", action="store_true", help="issue no refreshes")
    parser.add_argument(
        "--fidelity",
        default="event",
        help=f"issue every command, or add them up: {', '.join(FIDELITIES)} (default: %(default)s)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the device"
    )
    parser.add_argument("--commands", type=Path, metavar="FILE", help="write the commands of channel 0 as CSV")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Simulate the layer that the options describe, and print its result. PimsimError for what cannot be."""
    device = Device.load(options.device, fields.settings(options.set, "timing.mac_bank_power_limit=8"))
    for name in ("kv_heads", "stacks"):
        if getattr(options, name) == 0:
            raise WorkloadError(f"{name} must be 1 at least, not 0")
    layer = Attention(
        length=options.length,
        heads=options.heads,
        head_dim=options.head_dim,
        width=options.bytes,
        kv_heads=options.kv_heads or 0,
        batch=options.batch,
        level=options.level,
        power_limit=not options.no_power_limit,
        refresh=not options.no_refresh,
        stacks=options.stacks or 0,
        fidelity=options.fidelity,
    )
    if options.commands is None:
        result = attention(device, layer)
    elif options.fidelity != "event":
        raise WorkloadError("--commands needs --fidelity event: the closed form issues none")
    else:
        result, log = attention_commands(device, layer)
        write_commands(options.commands, options.level, log)
    print(json.dumps(result.as_dict(), indent=2) if options.json else in_words(result))
    return 0


def write_commands(file: Path, level: str, log: CommandLog) -> None:
    """Write `cycle,command,slot,row,column`, one line a command; -1 where a command has none.

    A slot is what one command of the level addresses; of moves it is the bank group. PimsimError if it cannot be
    written.
    """
    scope = SCOPES[level]
    names = [f"{kind}_{scope}" if kind in SCOPED else kind for kind in KINDS]
    columns = [array.tolist() for array in log]
    try:
        with file.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.writer(lines, lineterminator="\n")
            writer.writerow(("cycle", "command", "slot", "row", "column"))
            for cycle, kind, slot, row, column in zip(*columns, strict=True):
                writer.writerow((cycle, names[kind], slot, row, column))
    except OSError as error:
        raise PimsimError(f"cannot write {file}: {error.strerror}") from error


def in_words(result: AttentionResult) -> str:
    """A result for the terminal: a few lines."""
    layer = result.asked
    energy = ", ".join(f"{name} {value:.6g}" for name, value in result.energy_nj.items())
    return "\n".join(
        (
            f"{layer.heads} heads of {layer.head_dim} over {layer.length} tokens on {result.device.name}, level"
            f" {layer.level}, {layer.fidelity}:",
            f"  {result.cycles} cycles = {result.time_us:.4g} us, {result.mac_commands} MAC commands,"
            f" {result.effective_tbps:.4g} TB/s, {result.bound} holds",
            f"  energy in nJ: {energy}",
            result.provenance.in_words(),
        )
    )
