"""DramResult: what became of a trace, in cycles, bytes and nJ, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimsim.dram import state
from pimsim.dram.commands import CommandLog
from pimsim.dram.trace import Trace
from pimsim.result import Provenance
from pimsim.standard import Standard

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, eq=False)
class DramResult:
    """The result of a simulated trace. Cycles are of the standard's clock, from 0.

    A read's latency runs from its entering the queue to its last byte.
    """

    standard: str
    requests: int
    reads: int
    writes: int
    forwarded: int  # reads answered by a write that waited
    last_read_done_cycle: int  # 0 without reads
    last_burst_done_cycle: int
    avg_read_latency_cycles: float  # 0 without reads
    bandwidth_gbps: float  # GB/s, 1e9 bytes, of reads and writes until both last cycles are over
    peak_gbps: float  # of the data buses of all pseudo channels
    activates: int
    precharges: int  # banks closed; one command may close all of a rank
    refreshes: int  # commands, of a rank or of a bank
    row_hits: int  # requests for which no row was opened
    energy_nj: Mapping[str, float]
    tck_ns: float
    provenance: Provenance
    entered: NDArray[np.int64]  # cycle of each request, in the trace's order
    done: NDArray[np.int64]  # of a read its last byte's, of a write its entering's
    write: NDArray[np.uint8]
    commands: CommandLog | None = None

    @classmethod
    def of(
        cls,
        trace: Trace,
        standard: Standard,
        counts: Any,
        entered: NDArray[np.int64],
        done: NDArray[np.int64],
        energy_nj: Mapping[str, float],
        provenance: Provenance,
        commands: CommandLog | None,
    ) -> DramResult:
        """The result of a trace, from the kernel's `counts` [COUNTS], summed over the pseudo channels."""
        organisation = standard.organisation
        reads, writes = int(counts[state.READS]), int(counts[state.WRITES])
        last_read, last_burst = int(counts[state.LAST_READ]), int(counts[state.LAST_DATA])
        moved = len(trace) * organisation.burst_bytes
        return cls(
            standard=standard.name,
            requests=len(trace),
            reads=reads,
            writes=writes,
            forwarded=int(counts[state.FORWARDED]),
            last_read_done_cycle=last_read,
            last_burst_done_cycle=last_burst,
            avg_read_latency_cycles=int(counts[state.LATENCY]) / reads if reads else 0.0,
            bandwidth_gbps=moved / standard.ns(max(last_read, last_burst)),
            peak_gbps=standard.peak_gbps * organisation.channels * organisation.pseudo_channels,
            activates=int(counts[state.ACTIVATES]),
            precharges=int(counts[state.PRECHARGES]),
            refreshes=int(counts[state.REFRESHES]),
            row_hits=int(counts[state.HITS]),
            energy_nj=dict(energy_nj),
            tck_ns=standard.tck_ns,
            provenance=provenance,
            entered=entered,
            done=done,
            write=trace.write,
            commands=commands,
        )

    def latency_percentiles(self) -> dict[str, float]:
        """Percentiles of the cycles that reads take, by name (`p50`); 0 without reads."""
        taken = (self.done - self.entered)[self.write == 0]
        values = np.percentile(taken, PERCENTILES) if len(taken) else [0.0] * len(PERCENTILES)
        return {f"p{share}": float(value) for share, value in zip(PERCENTILES, values, strict=True)}

    def as_dict(self) -> dict[str, Any]:
        """All figures as the command's JSON names them."""
        plain = (
            "standard requests reads writes forwarded last_read_done_cycle last_burst_done_cycle"
            " avg_read_latency_cycles bandwidth_gbps peak_gbps activates precharges refreshes row_hits energy_nj tck_ns"
        )
        return {
            **{name: getattr(self, name) for name in plain.split()},
            "read_latency_cycles": self.latency_percentiles(),
            "time_ns": max(self.last_read_done_cycle, self.last_burst_done_cycle) * self.tck_ns,
            "provenance": self.provenance.as_dict(),
        }

    def in_words(self) -> str:
        """The run as a few lines for the terminal: traffic, bandwidth, latency, commands, energy and provenance."""
        end = max(self.last_read_done_cycle, self.last_burst_done_cycle)
        energies = ", ".join(f"{name} {nj:.1f}" for name, nj in self.energy_nj.items())
        percentiles = ", ".join(f"{name} {value:.0f}" for name, value in self.latency_percentiles().items())
        lines = [
            f"{self.standard}: {self.reads} reads, {self.writes} writes in {end} cycles"
            f" ({end * self.tck_ns / 1e3:.2f} µs)",
            f"  last read done in cycle {self.last_read_done_cycle}; {self.bandwidth_gbps:.2f} of"
            f" {self.peak_gbps:.2f} GB/s",
            f"  read latency: mean {self.avg_read_latency_cycles:.1f} cycles, {percentiles}",
            f"  {self.activates} activates, {self.precharges} precharges, {self.refreshes} refreshes, {self.row_hits}"
            " row hits",
            f"  energy in nJ: {energies}",
            self.provenance.in_words(),
        ]
        return "\n".join(lines)
