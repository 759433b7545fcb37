"""Attention: one layer's QKᵀ, softmax and AV for one token a request, where K and V lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pimsim.errors import WorkloadError
from pimsim.hbm_pim.accounting import energy_nj, mac_limit, opening_limit, tightest
from pimsim.hbm_pim.closed_form import attention_counts
from pimsim.hbm_pim.device import Device
from pimsim.hbm_pim.kernel import CommandLog, Counts, run, run_logged
from pimsim.hbm_pim.mapping import (
    UNIT_OF,
    Spread,
    attention_shape,
    elements_per_column,
    rules,
    shared_vectors,
)
from pimsim.hbm_pim.state import Rules
from pimsim.hbm_pim.stream import Shape, attention_stream, rows_per_operand
from pimsim.result import Bound, Provenance

FIDELITIES = ("event", "closed")


@dataclass(frozen=True)
class Attention:
    """A layer's attention for one token a request: `heads` queries of each of `batch` requests over `length` tokens.

    `kv_heads` heads of K and V serve the queries in equal groups (0: as many as heads); `width` is bytes of a number;
    `stacks` of 0 takes the device's own number, over which the KV heads are spread.
    """

    length: int
    heads: int
    head_dim: int
    width: int = 2
    kv_heads: int = 0
    batch: int = 1
    level: str = "bank"
    power_limit: bool = True
    refresh: bool = True
    stacks: int = 0
    fidelity: str = "event"

    def check(self, device: Device) -> None:
        """WorkloadError for what `device` cannot do, or no device could."""
        for name in ("length", "heads", "head_dim", "batch"):
            if getattr(self, name) < 1:
                raise WorkloadError(f"{name} must be 1 at least, not {getattr(self, name)}")
        for name in ("kv_heads", "stacks"):
            if getattr(self, name) < 0:
                raise WorkloadError(f"{name} must be 1 at least, or 0 for its default, not {getattr(self, name)}")
        if self.kv_heads and self.heads % self.kv_heads:
            raise WorkloadError(
                f"{self.heads} heads cannot share {self.kv_heads} KV heads in equal groups: kv_heads must divide heads"
            )
        if self.fidelity not in FIDELITIES:
            raise WorkloadError(f"unknown fidelity {self.fidelity!r}: choose one of {', '.join(FIDELITIES)}")
        Spread.of(device, self.level)
        elements_per_column(device, self.width)
        row_bytes = device.standard.organisation.row_bytes
        if self.head_dim * self.width > row_bytes:
            raise WorkloadError(
                f"a head of {self.head_dim} numbers of {self.width} bytes is wider than a row of {device.name}"
                f" ({row_bytes} bytes): take a head_dim of {row_bytes // self.width} at most"
            )


@dataclass(frozen=True)
class AttentionResult:
    """The result of one layer. Cycles are of the memory's clock, `time_us` is µs, `energy_nj` nJ by part over all
    stacks.

    `mac_commands` counts all channels; `kv_bytes` are the bytes of K and V, `read_bytes` what the MACs read of the
    banks (more where a head does not fill its banks, or a group of queries needs several reads); `effective_tbps` is
    kv_bytes over time.
    """

    asked: Attention
    device: Device = field(repr=False)
    cycles: int
    stream_cycles: int  # of the command stream alone, without the limit of the softmax units
    time_us: float
    mac_commands: int
    kv_bytes: int
    read_bytes: int
    effective_tbps: float
    activates: int  # of channel 0
    refreshes: int  # of channel 0
    bound: str
    bounds: tuple[tuple[str, float], ...]  # cycles by name, the one that holds first
    energy_nj: dict[str, float]

    @cached_property
    def provenance(self) -> Provenance:
        """What the result rests on: clocks, assumed parameters, bounds and energies."""
        clocks = {"memory": 1e3 / self.device.standard.tck_ns}
        clocks["units"] = self.device.units[UNIT_OF[self.asked.level]].clock_mhz
        return Provenance.of(
            [self.device.configuration, self.asked],
            clocks_mhz=clocks,
            sourced=self.device.sourced,
            bounds=[Bound(name, limit, self.cycles, "cycles", True) for name, limit in self.bounds],
            energy_table=self.device.table.as_dict(),
        )

    def as_dict(self) -> dict[str, Any]:
        """All figures as the command's JSON names them."""
        names = ("cycles", "time_us", "mac_commands", "effective_tbps", "bound", "energy_nj")
        more = ("stream_cycles", "kv_bytes", "read_bytes", "activates", "refreshes")
        return {
            **{name: getattr(self, name) for name in names},
            "device": self.device.name,
            "level": self.asked.level,
            "fidelity": self.asked.fidelity,
            **{name: getattr(self, name) for name in more},
            "provenance": self.provenance.as_dict(),
        }


@dataclass(frozen=True)
class _Plan:
    """How the jobs of a layer lie on the device."""

    shape: Shape
    rules: Rules
    jobs: int  # of all channels: KV heads of all requests, times the reads that a group of queries needs
    jobs_of_stack: int
    jobs_of_channel: int  # of the fullest

    @property
    def macs(self) -> int:
        """MAC commands of one job."""
        shape = self.shape
        return shape.score_outputs * shape.score_macs + shape.context_outputs * shape.context_macs

    @property
    def moves(self) -> int:
        """Moves of one job, without its loads."""
        shape = self.shape
        blocks = -(-shape.score_outputs // shape.outputs_per_move)
        moves = shape.score_moves * blocks + 1 + shape.probability_moves + shape.context_moves * shape.context_outputs
        return moves * shape.vectors


def attention(device: Device | str, asked: Attention) -> AttentionResult:
    """Simulate one attention layer on a device, or the one of that name. WorkloadError for what the device cannot
    do.
    """
    device = Device.load(device) if isinstance(device, str) else device
    plan = _plan(device, asked)
    if asked.fidelity == "closed":
        counts = attention_counts(plan.shape, plan.rules, plan.jobs_of_channel)
    else:
        counts = run(attention_stream(plan.shape, plan.jobs_of_channel), plan.rules)
    return _result(device, asked, plan, counts)


def attention_commands(device: Device | str, asked: Attention) -> tuple[AttentionResult, CommandLog]:
    """Simulate as `attention` does in event fidelity, and keep every command of channel 0 of stack 0."""
    device = Device.load(device) if isinstance(device, str) else device
    plan = _plan(device, asked)
    counts, log = run_logged(attention_stream(plan.shape, plan.jobs_of_channel), plan.rules)
    return _result(device, asked, plan, counts), log


def _plan(device: Device, asked: Attention) -> _Plan:
    asked.check(device)
    organisation = device.standard.organisation
    kv_heads = asked.kv_heads or asked.heads
    group = asked.heads // kv_heads
    vectors = shared_vectors(device, asked.level, asked.head_dim, asked.width, group)
    shape = attention_shape(device, asked.level, asked.length, asked.head_dim, asked.width, vectors)
    jobs = kv_heads * asked.batch
    of_stack = -(-jobs // (asked.stacks or device.stacks))
    of_channel = -(-of_stack // organisation.channels)
    rows = 2 * of_channel * rows_per_operand(shape)
    if rows > organisation.rows:
        raise WorkloadError(
            f"K and V take {rows} rows of a bank, and {device.name} has {organisation.rows}: shorten length or batch,"
            " or take more stacks"
        )
    reads = group // vectors
    timing = rules(device, asked.level, power_limit=asked.power_limit, refresh=asked.refresh, vectors=vectors)
    return _Plan(shape, timing, jobs * reads, of_stack * reads, of_channel * reads)


def _result(device: Device, asked: Attention, plan: _Plan, counts: Counts) -> AttentionResult:
    standard, shape = device.standard, plan.shape
    operations = plan.jobs_of_stack * shape.vectors * asked.length * device.softmax_operations
    softmax = operations / device.softmax_gflops / standard.tck_ns  # GFLOP/s are operations a ns
    cycles = max(counts.cycles, math.ceil(softmax))
    time_ns = standard.ns(cycles)
    macs = plan.jobs * plan.macs
    kv_bytes = 2 * asked.length * (asked.kv_heads or asked.heads) * asked.head_dim * asked.width * asked.batch
    spread = Spread.of(device, asked.level)
    limits = tightest(
        {
            mac_limit(device, asked.level, plan.rules, power_limit=asked.power_limit): plan.jobs_of_channel
            * plan.macs
            * plan.rules.mac,
            "moves": plan.jobs_of_channel * (plan.moves + shape.loads * shape.vectors) * plan.rules.move,
            "activation": opening_limit(plan.rules, counts.activates),
            "softmax": softmax,
        }
    )
    channels = plan.jobs / plan.jobs_of_channel  # that are as busy as the fullest
    return AttentionResult(
        asked=asked,
        device=device,
        cycles=cycles,
        stream_cycles=counts.cycles,
        time_us=time_ns * 1e-3,
        mac_commands=macs,
        kv_bytes=kv_bytes,
        read_bytes=macs * spread.banks_per_slot * standard.organisation.burst_bytes,
        effective_tbps=kv_bytes / time_ns * 1e-3,
        activates=counts.activates,
        refreshes=counts.refreshes,
        bound=limits[0][0],
        bounds=tuple(limits),
        energy_nj=energy_nj(
            device,
            asked.level,
            macs=macs,
            vectors=shape.vectors,
            activates=counts.activates * channels,
            loads=plan.jobs * shape.loads * shape.vectors,
            moves=plan.jobs * plan.moves,
        ),
    )
