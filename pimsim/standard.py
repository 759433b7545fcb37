"""Standard: a DRAM standard as data: its organisation, its timings in cycles of its clock, and the source of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pimsim import fields
from pimsim.errors import FieldError
from pimsim.fields import Fields, Sourced

FOLDER = "standards"


@dataclass(frozen=True, slots=True)
class Organisation:
    """How many of each part there are in the next larger one; `columns` counts the bursts of a row."""

    channels: int
    pseudo_channels: int  # a channel; 1 where the standard has none
    ranks: int  # a channel (stack IDs in HBM)
    bank_groups: int  # a rank
    banks: int  # a bank group
    rows: int  # a bank
    columns: int  # bursts a row
    burst_bytes: int  # bytes of one column command, over all devices of a rank

    @property
    def banks_per_rank(self) -> int:
        """Banks of all bank groups of a rank."""
        return self.bank_groups * self.banks

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, over all devices of a rank."""
        return self.columns * self.burst_bytes

    @property
    def rank_bytes(self) -> int:
        """Bytes that a rank of one pseudo channel holds."""
        return self.banks_per_rank * self.rows * self.row_bytes

    @property
    def bytes(self) -> int:
        """Bytes that all channels hold."""
        return self.rank_bytes * self.ranks * self.pseudo_channels * self.channels


@dataclass(frozen=True, slots=True)
class Timing:
    """Least distances between commands in cycles, by JEDEC's names.

    `tBL` is the time of a burst on the data bus, `_S` holds between bank groups and `_L` within one, `tRTRS` is the gap
    between bursts of two ranks, `tRFCpb` and `tREFIpb` (0: not in the standard) are of a refresh of one bank.
    """

    tRCD: int
    tRP: int
    tRAS: int
    tRC: int
    tCL: int
    tCWL: int
    tBL: int
    tCCD_S: int
    tCCD_L: int
    tRRD_S: int
    tRRD_L: int
    tFAW: int
    tRTP: int
    tWR: int
    tWTR_S: int
    tWTR_L: int
    tRTRS: int
    tRFC: int
    tREFI: int
    tRFCpb: int = 0
    tREFIpb: int = 0


@dataclass(frozen=True, slots=True)
class Standard:
    """A DRAM standard. `sourced` says where each value comes from; only this project says those that are `assumed`."""

    name: str
    kind: str  # DDR4, DDR5, HBM2 or HBM3
    tck_ns: float
    organisation: Organisation
    timing: Timing
    energy: str  # name of the table of energies that fits
    command_buses: int = 1  # 2: commands to rows and to columns go side by side, as in HBM
    sourced: tuple[Sourced, ...] = field(default=(), compare=False)

    @classmethod
    def load(cls, name: str, changes: Mapping[str, Any] | None = None) -> Standard:
        """The standard of that name, or of a YAML file; FieldError says which field is wrong."""
        return cls.of(fields.load(FOLDER, name, changes))

    @classmethod
    def of(cls, values: Fields) -> Standard:
        """The standard that these fields are."""
        organisation = values.inner("organisation")
        timing = values.inner("timing")
        optional = {"tRFCpb": 0, "tREFIpb": 0}
        standard = cls(
            name=values.text("name"),
            kind=values.text("kind", one_of=("DDR4", "DDR5", "HBM2", "HBM3")),
            tck_ns=values.number("tck_ns", least=1e-3),
            organisation=Organisation(
                **{part.name: organisation.integer(part.name, least=1) for part in dataclasses.fields(Organisation)}
            ),
            timing=Timing(
                **{part.name: timing.integer(part.name, optional.get(part.name)) for part in dataclasses.fields(Timing)}
            ),
            energy=values.text("energy"),
            command_buses=values.integer("command_buses", 1, least=1, most=2),
            sourced=tuple(values.sourced),
        )
        for part in (organisation, timing, values):
            part.end()
        _check(standard, values.where)
        return standard

    @property
    def assumed(self) -> tuple[Sourced, ...]:
        return tuple(value for value in self.sourced if value.source.assumed)

    @property
    def peak_gbps(self) -> float:
        """GB/s (1e9 bytes) that one pseudo channel's data bus carries without a gap."""
        return self.organisation.burst_bytes / (self.timing.tBL * self.tck_ns)

    def ns(self, cycles: float) -> float:
        """Nanoseconds of this many cycles."""
        return cycles * self.tck_ns


def names() -> list[str]:
    """Names of the standards that pimsim brings."""
    return fields.shipped(FOLDER)


def _check(standard: Standard, where: str) -> None:
    """FieldError for an organisation or timings that no device can have."""
    organisation, timing = standard.organisation, standard.timing
    for name in ("bank_groups", "banks", "rows", "columns", "burst_bytes"):
        value = getattr(organisation, name)
        if value & (value - 1):
            raise FieldError(f"{where}: organisation.{name} must be a power of two, not {value}")
    for name in ("tRCD", "tRP", "tRAS", "tRC", "tCL", "tCWL", "tBL", "tCCD_S", "tREFI"):
        if getattr(timing, name) < 1:
            raise FieldError(f"{where}: timing.{name} must be 1 cycle at least")
    for small, large in (("tCCD_S", "tCCD_L"), ("tRRD_S", "tRRD_L"), ("tWTR_S", "tWTR_L"), ("tRAS", "tRC")):
        if getattr(timing, small) > getattr(timing, large):
            raise FieldError(f"{where}: timing.{small} must not be above timing.{large}")
    if timing.tCCD_S < timing.tBL:
        raise FieldError(f"{where}: timing.tCCD_S must be tBL at least: bursts would overlap on the data bus")
    if timing.tRFC >= timing.tREFI:
        raise FieldError(f"{where}: timing.tRFC must be below tREFI: there would be no time but for refreshes")
    if timing.tREFIpb and timing.tRFCpb >= timing.tREFIpb * organisation.banks_per_rank:
        raise FieldError(f"{where}: timing.tRFCpb must be below tREFIpb times the banks of a rank")
