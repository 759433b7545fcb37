"""Controller: its settings, and the simulation of a trace by one controller for each pseudo channel."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pimsim.dram import kernel, state
from pimsim.dram.bounds import bounds
from pimsim.dram.commands import CommandLog
from pimsim.dram.energy import energy_nj
from pimsim.dram.result import DramResult
from pimsim.dram.trace import Trace
from pimsim.energy import EnergyTable
from pimsim.errors import WorkloadError
from pimsim.fields import Source, Sourced
from pimsim.result import Provenance
from pimsim.standard import Standard

REFRESHES = {"none": 0, "all-bank": 1, "per-bank": 2}
PAGES = {"open": 0, "closed": 1}
MOST_QUEUE = 1 << 16
MOST_TIMING = 1 << 24  # cycles; what follows from several must fit the kernel's ranking
OURS = Source("a usual controller: 32 reads, four hits a row as in DRAMsim3, water marks as in Ramulator", assumed=True)


@dataclass(frozen=True, slots=True)
class Controller:
    """Settings of a controller: FR-FCFS, the oldest of the first ready, reads before writes.

    `queue` is how many reads wait for their row at most, and as many writes; a request whose row has been opened for it
    is no longer counted, and goes first. Writes are sent when more than the share `high_water` of their queue is
    filled, or no read waits, until less than `low_water` is. After `row_hit_cap` columns of a row the oldest request of
    the bank comes first. `page` closed: a row closes once no request waits for it. `refresh` is none, all-bank (all
    ranks when tREFI has passed) or per-bank (one bank a rank and tREFIpb, in turn). WorkloadError for settings out of
    range.

    Timing alone is modelled: a write may pass an older read of the same place; a read of what waits to be written is
    answered from the queue a cycle later.
    """

    queue: int = 32
    row_hit_cap: int = 4
    page: str = "open"
    refresh: str = "all-bank"
    high_water: float = 0.8
    low_water: float = 0.2

    def __post_init__(self) -> None:
        if not 1 <= self.queue <= MOST_QUEUE:
            raise WorkloadError(f"queue must be 1 to {MOST_QUEUE}, not {self.queue}")
        if self.row_hit_cap < 1:
            raise WorkloadError(f"row hit cap must be 1 at least, not {self.row_hit_cap}")
        if self.page not in PAGES:
            raise WorkloadError(f"page must be {' or '.join(PAGES)}, not {self.page!r}")
        if self.refresh not in REFRESHES:
            raise WorkloadError(f"refresh must be one of {', '.join(REFRESHES)}, not {self.refresh!r}")
        if not 0 <= self.low_water <= self.high_water < 1:
            raise WorkloadError("water marks must be 0 <= low <= high < 1")

    def rules(self, standard: Standard) -> state.Rules:
        """The settings and the standard's timings as the kernel takes them.

        WorkloadError if the standard has no refresh of that kind, or a timing is too long.
        """
        timing, organisation = standard.timing, standard.organisation
        if self.refresh == "per-bank" and not (timing.tRFCpb and timing.tREFIpb):
            raise WorkloadError(f"{standard.name} has no per-bank refresh: tRFCpb and tREFIpb are not in it")
        for name, cycles in dataclasses.asdict(timing).items():
            if cycles > MOST_TIMING:
                raise WorkloadError(f"{standard.name}: {name} must be {MOST_TIMING} cycles at most, not {cycles}")
        return state.Rules(
            timing=timing,
            ranks=organisation.ranks,
            bank_groups=organisation.bank_groups,
            banks=organisation.banks,
            queue=self.queue,
            high_water=math.floor(self.high_water * self.queue),
            low_water=max(1, math.ceil(self.low_water * self.queue)),
            row_hit_cap=self.row_hit_cap,
            closed_page=PAGES[self.page],
            refresh=REFRESHES[self.refresh],
            buses=standard.command_buses,
        )

    @property
    def sourced(self) -> tuple[Sourced, ...]:
        """The settings as parameters, all of which are assumed."""
        return tuple(
            Sourced(f"controller.{part.name}", getattr(self, part.name), OURS) for part in dataclasses.fields(self)
        )


def simulate(
    trace: Trace | str | Path,
    standard: Standard | str,
    controller: Controller | None = None,
    *,
    energy: EnergyTable | str | None = None,
    commands: bool = False,
) -> DramResult:
    """Simulate a trace; every pseudo channel has a controller of its own, which knows nothing of the others.

    In each of them requests enter in the trace's order, one a cycle at most and not before their cycle; where the queue
    is full the first waits, and so do all behind it. `energy` is a table or its name (the standard's own if None); with
    `commands` the result has a log of all commands. TraceError, FieldError or WorkloadError for what cannot be
    simulated.
    """
    if isinstance(standard, str):
        standard = Standard.load(standard)
    controller = controller or Controller()
    if not isinstance(trace, Trace):
        trace = Trace.read(trace)
    if not isinstance(energy, EnergyTable):
        energy = EnergyTable.load(energy or standard.energy)
    organisation = standard.organisation
    trace.check(organisation)
    rules = controller.rules(standard)
    obeyed = rules.record
    banks = trace.flat_bank(organisation)
    entered = np.zeros(len(trace), np.int64)
    done = np.zeros(len(trace), np.int64)
    totals = np.zeros(state.COUNTS, np.int64)
    activated = np.zeros(
        (organisation.channels * organisation.pseudo_channels, organisation.ranks * organisation.banks_per_rank),
        np.int64,
    )
    logs = []
    first, last = int(trace.channel.min()), int(trace.channel.max())
    for channel in range(first, last + 1):
        chosen: slice | np.ndarray = slice(None) if first == last else np.flatnonzero(trace.channel == channel)
        cycle = trace.cycle[chosen]
        if not len(cycle):
            continue
        enters, ends = np.zeros(len(cycle), np.int64), np.zeros(len(cycle), np.int64)
        begun = state.State.begin(rules, logged=commands)
        log, length = kernel.advance(
            cycle, trace.write[chosen], banks[chosen], trace.row[chosen], trace.column[chosen], obeyed, begun, enters,
            ends, activated[channel],
        )  # fmt: skip
        counts = begun.controller["counts"][0]
        entered[chosen], done[chosen] = enters, ends
        latest = np.maximum(totals, counts)[[state.LAST_READ, state.LAST_DATA]]
        totals += counts
        totals[[state.LAST_READ, state.LAST_DATA]] = latest
        if commands:
            requests = np.arange(len(trace))[chosen]
            logs.append((channel, log[:length], requests))
    held = bounds(trace, activated, standard, totals)
    configuration: Mapping[str, object] = {
        "standard": standard,
        "controller": controller,
        "energy": energy.as_dict(),
    }
    return DramResult.of(
        trace,
        standard,
        totals,
        entered,
        done,
        energy_nj(energy, standard, totals, by_bank=controller.refresh == "per-bank"),
        Provenance.of(
            configuration,
            clocks_mhz={"memory": 1e3 / standard.tck_ns},
            sourced=(*standard.sourced, *controller.sourced, *energy.sourced),
            bounds=held,
            energy_table=energy.as_dict(),
        ),
        CommandLog.of(logs, trace, standard) if commands else None,
    )
