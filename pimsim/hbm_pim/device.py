"""Device: an HBM-PIM device as data: its standard, its stacks, the units beside the banks, and what a command costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from pimsim import fields
from pimsim.energy import EnergyTable
from pimsim.errors import FieldError
from pimsim.fields import Fields, Sourced
from pimsim.result import configuration_hash
from pimsim.standard import Standard

FOLDER = "devices"
KIND = "hbm-pim"
LEVELS = ("bank", "bank_group", "buffer")
LANE_BYTES = 2  # a lane multiplies FP16; narrower numbers share it, wider ones take several


@dataclass(frozen=True)
class Unit:
    """The units that multiply and add at one level."""

    banks: int  # that share a unit and are read by the same command
    lanes: int  # FP16 multipliers, each with its adder
    clock_mhz: float
    buffer_bytes: int  # of operand vectors


@dataclass(frozen=True)
class MacTiming:
    """Cycles between commands of a channel that only a PIM device has."""

    activate_command: int
    mac_to_precharge: int
    limits_activations: bool  # whether tRRD and tFAW hold where units address a bank each, as for ordinary ACTs
    mac_bank: int
    mac_bank_power_limit: int
    mac_bank_group: int
    mac_bank_group_power_limit: int


@dataclass(frozen=True)
class TopModule:
    """The matrix unit outside of the memory."""

    arrays: int
    array_rows: int
    array_columns: int
    clock_mhz: float
    scratchpad_mb: float

    @property
    def peak_tflops(self) -> float:
        return self.arrays * self.array_rows * self.array_columns * 2 * self.clock_mhz * 1e-6


@dataclass(frozen=True)
class Paths:
    """Names of the energy table's terms: from the cells to the unit of each level, and of what moves."""

    activate: str
    bank: tuple[str, ...]
    bank_group: tuple[str, ...]
    buffer: tuple[str, ...]
    outside: tuple[str, ...]
    load: tuple[str, ...]
    move: tuple[str, ...]
    compute: str  # a ratio to a read at the bank


@dataclass(frozen=True)
class Device:
    """An HBM-PIM device, loaded by name. Two that are equal give equal results."""

    name: str
    standard: Standard  # its organisation is that of one stack
    table: EnergyTable = field(compare=False)
    stacks: int
    window: int
    timing: MacTiming
    units: Mapping[str, Unit] = field(hash=False)
    softmax_gflops: float  # of a stack
    softmax_operations: int  # a score
    tpm: TopModule | None
    paths: Paths
    sourced: tuple[Sourced, ...] = field(compare=False, repr=False)

    @classmethod
    def load(cls, name: str, changes: Mapping[str, Any] | None = None) -> Device:
        """The device of that name, or of a YAML file; `changes` are values by dotted name. FieldError says which field
        is wrong.

        Fields of the files that the device names change as `standard.timing.tRCD` and `energy.terms.cell.value`.
        """
        if changes or "/" in name or name.endswith((".yaml", ".yml")):
            own, inner = fields.split(changes, "standard", "energy")
            return _read(fields.load(FOLDER, name, own), **inner)
        return _shipped(name)

    @property
    def banks_per_channel(self) -> int:
        """Banks of all pseudo channels, ranks and bank groups of a channel."""
        organisation = self.standard.organisation
        return organisation.pseudo_channels * organisation.ranks * organisation.banks_per_rank

    @property
    def banks_per_stack(self) -> int:
        """Banks of all channels of a stack."""
        return self.banks_per_channel * self.standard.organisation.channels

    @property
    def bank_gbps(self) -> float:
        """GB/s that a unit reads of one bank, column after column."""
        organisation = self.standard.organisation
        return organisation.burst_bytes / (self.timing.mac_bank * self.standard.tck_ns)

    @property
    def internal_tbps(self) -> float:
        """TB/s that the banks of all stacks deliver to their units, without the power limit."""
        return self.bank_gbps * self.banks_per_stack * self.stacks * 1e-3

    @property
    def external_tbps(self) -> float:
        """TB/s that leave all stacks at most."""
        organisation = self.standard.organisation
        channels = organisation.channels * organisation.pseudo_channels
        return self.standard.peak_gbps * channels * self.stacks * 1e-3

    @cached_property
    def configuration(self) -> str:
        """Hash of all fields, and of the table of energies."""
        return configuration_hash([self, self.table.as_dict()])

    def unit_cycles(self, level: str, vectors: int) -> int:
        """Cycles of the memory's clock in which a unit multiplies a column of each of its banks with `vectors`."""
        unit = self.units[level]
        steps = vectors * self.standard.organisation.burst_bytes * unit.banks / (unit.lanes * LANE_BYTES)
        # a clock that is written rounded does not cost a whole cycle
        return math.ceil(steps * 1e3 / unit.clock_mhz / self.standard.tck_ns - 0.01)


@lru_cache(maxsize=16)
def _shipped(name: str) -> Device:
    return _read(fields.load(FOLDER, name))


def _read(values: Fields, standard: Mapping[str, Any] | None = None, energy: Mapping[str, Any] | None = None) -> Device:
    """The device of these fields, on its standard and its table with these of their fields changed."""
    if values.text("kind") != KIND:
        raise FieldError(f"{values.where}: kind must be {KIND}: this is another device")
    organisation = {f"organisation.{name}": values.integer(name, least=1) for name in ("channels", "pseudo_channels")}
    memory = Standard.load(values.text("standard"), {**organisation, **(standard or {})})
    table = EnergyTable.load(values.text("energy"), energy)
    timing, units, softmax, paths = (values.inner(name) for name in ("timing", "units", "softmax", "paths"))
    device = Device(
        name=values.text("name"),
        standard=memory,
        table=table,
        stacks=values.integer("stacks", least=1),
        window=values.integer("window", least=2),
        timing=MacTiming(
            activate_command=timing.integer("activate_command", least=1),
            mac_to_precharge=timing.integer("mac_to_precharge"),
            limits_activations=timing.flag("limits_activations"),
            mac_bank=timing.integer("mac_bank", least=1),
            mac_bank_power_limit=timing.integer("mac_bank_power_limit", least=1),
            mac_bank_group=timing.integer("mac_bank_group", least=1),
            mac_bank_group_power_limit=timing.integer("mac_bank_group_power_limit", least=1),
        ),
        units={level: _unit(units.inner(level)) for level in LEVELS},
        softmax_gflops=softmax.number("gflops", least=1e-6),
        softmax_operations=softmax.integer("operations"),
        tpm=_top_module(values.inner("tpm")) if "tpm" in values else None,
        paths=Paths(
            activate=paths.text("activate", one_of=table.terms),
            compute=paths.text("compute", one_of=table.terms),
            **{name: _terms(paths, name, table) for name in (*LEVELS, "outside", "load", "move")},
        ),
        sourced=(*memory.sourced, *table.sourced, *values.sourced),
    )
    for part in (timing, units, softmax, paths, values):
        part.end()
    _check(device, values.where)
    return device


def _unit(values: Fields) -> Unit:
    unit = Unit(
        banks=values.integer("banks", least=1),
        lanes=values.integer("lanes", least=1),
        clock_mhz=values.number("clock_mhz", least=1),
        buffer_bytes=values.integer("buffer_bytes", least=1),
    )
    values.end()
    return unit


def _top_module(values: Fields) -> TopModule:
    module = TopModule(
        arrays=values.integer("arrays", least=1),
        array_rows=values.integer("array_rows", least=1),
        array_columns=values.integer("array_columns", least=1),
        clock_mhz=values.number("clock_mhz", least=1),
        scratchpad_mb=values.number("scratchpad_mb"),
    )
    values.end()
    return module


def _terms(paths: Fields, name: str, table: EnergyTable) -> tuple[str, ...]:
    names = paths.names(name)
    for term in names:
        if term not in table.terms:
            raise FieldError(f"{paths.where}: paths.{name} names {term!r}, which energies/{table.name} does not have")
    return tuple(names)


def _check(device: Device, where: str) -> None:
    timing, banks = device.timing, device.banks_per_channel
    for level in ("mac_bank", "mac_bank_group"):
        if getattr(timing, f"{level}_power_limit") < getattr(timing, level):
            raise FieldError(f"{where}: timing.{level}_power_limit must not be below timing.{level}")
    if banks % device.units["bank"].banks:
        raise FieldError(f"{where}: units.bank.banks must divide the {banks} banks of a channel")
