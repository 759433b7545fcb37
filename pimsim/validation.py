"""Validation: golden figures of other simulators beside ours."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pimsim.dram.controller import Controller, simulate
from pimsim.dram.trace import Trace
from pimsim.errors import FieldError
from pimsim.hbm_pim.attention import Attention, attention
from pimsim.standard import Standard

ATTENTION_WITHIN = 0.05  # of AttAcc's cycles, and the closed form of the event kernel's
SHIPPED = Path(__file__).parent / "golden"
# by what a trace's name begins with
STANDARDS = {"ddr4": "ddr4-3200-heterrag", "ddr4r1": "ddr4-3200-heterrag-1rank", "hbm2": "hbm2-heterrag"}
REFRESH = {"ref": "all-bank", "noref": "none"}
ACTIVATES_WITHIN = 0.05  # of DRAMsim3's, for reads that do not saturate


@dataclass(frozen=True, slots=True)
class Check:
    """One figure: the references' least and most, what is accepted, and ours."""

    figure: str
    unit: str
    least: float
    most: float
    accept_low: float
    accept_high: float
    ours: float

    @property
    def error_pct(self) -> float:
        """How far ours is from the nearer reference, in % of that; 0 between the two."""
        nearest = min(max(self.ours, self.least), self.most)
        return 100 * (self.ours - nearest) / nearest if nearest else 0.0

    @property
    def accepted(self) -> bool:
        """Whether ours is within the accepted band."""
        return self.accept_low <= self.ours <= self.accept_high

    def as_dict(self) -> dict[str, Any]:
        """The figure as the command's JSON has it."""
        return {**asdict(self), "error_pct": self.error_pct, "accepted": self.accepted}

    def in_words(self) -> str:
        """A line of the table."""
        verdict = "in" if self.accepted else "OUT"
        reference = f"{self.least:.10g} … {self.most:.10g}"
        return f"{self.figure:<44} {reference:>22} {self.ours:>10.10g} {self.error_pct:>+7.2f} %  {verdict}"


def dram_checks(folder: Path) -> Iterator[Check]:
    """Finish cycles of the traces in folder/dram, and activates where reads alone come and do not saturate."""
    activates = {
        (row["trace"], row["refresh"]): int(row["ds3_num_act_cmds"])
        for row in _rows(folder / "dram" / "reference.csv")
        if row["ds3_num_act_cmds"]
    }
    for row in _rows(folder / "dram" / "bands.csv"):
        name, refresh = row["trace"], row["refresh"]
        kind = name.partition("_")[0]
        if kind not in STANDARDS or refresh not in REFRESH:
            raise FieldError(
                f"{folder}/dram/bands.csv: {name}, {refresh}: names begin with {', '.join(STANDARDS)}, and refresh is"
                f" {' or '.join(REFRESH)}"
            )
        trace = Trace.read(folder / "dram" / "traces" / f"{name}.csv.gz")
        result = simulate(trace, Standard.load(STANDARDS[kind]), Controller(refresh=REFRESH[refresh]))
        least, most, low, high = (float(row[column]) for column in ("fin_min", "fin_max", "accept_lo", "accept_hi"))
        done = result.last_read_done_cycle
        yield Check(f"{name} {refresh}: last read done", "cycle", least, most, low, high, done)
        unsaturated = result.provenance.bounds[0].name.startswith("arrival")
        if unsaturated and not result.writes and (name, refresh) in activates:
            count = activates[name, refresh]
            low, high = count * (1 - ACTIVATES_WITHIN), count * (1 + ACTIVATES_WITHIN)
            yield Check(f"{name} {refresh}: activates", "commands", count, count, low, high, result.activates)


def attention_checks(folder: Path) -> Iterator[Check]:
    """Cycles and MAC commands of one attention layer, in event fidelity; cycles of the closed form against those."""
    for row in _rows(folder / "attacc" / "attention_layer.csv"):
        layer = Attention(
            length=int(row["L"]),
            heads=int(row["nhead"]),
            head_dim=int(row["dhead"]),
            width=int(row["dbyte"]),
            level=row["level"],
            power_limit=row["power_constraint"] == "True",
            refresh=row["refresh"] != "No",
        )
        mode = ("power" if layer.power_limit else "free") + (" refresh" if layer.refresh else "")
        name = f"attention {layer.level} L {layer.length} {mode}"
        result = attention("hbm3-attacc", layer)
        cycles, macs = int(row["cycles"]), sum(int(row[count]) for count in ("mac_ab", "mac_sb", "mac_pb"))
        yield Check(f"{name}: cycles", "cycle", cycles, cycles, *_within(cycles, ATTENTION_WITHIN), result.cycles)
        yield Check(f"{name}: MACs", "commands", macs, macs, macs, macs, result.mac_commands)
        closed = attention("hbm3-attacc", replace(layer, fidelity="closed")).cycles
        event = result.cycles
        yield Check(f"{name}: closed", "cycle", event, event, *_within(event, ATTENTION_WITHIN), closed)


def _within(value: float, share: float) -> tuple[float, float]:
    return value * (1 - share), value * (1 + share)


# each takes the golden folder and yields its checks, or nothing where its figures are not there
GROUPS: dict[str, Callable[[Path], Iterator[Check]]] = {
    "dram": dram_checks,
    "attacc": attention_checks,
}


def golden_folder(given: Path) -> Path:
    """The folder that holds `dram` and `attacc`; the one above it and `dram` itself are understood, too. FieldError if
    it is missing.
    """
    if not given.is_dir():
        raise FieldError(f"{given}: there is no such folder of golden figures")
    if (given / "bands.csv").is_file():
        return given.resolve().parent
    return given / "pim" if (given / "pim").is_dir() else given


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise FieldError(f"cannot read golden figures of {path}: {error}") from error
