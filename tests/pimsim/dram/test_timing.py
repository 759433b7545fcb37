"""Layer three: each timing holds, is reached, and would be missed if it were not kept."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

from pimsim import Controller, simulate
from tests.pimsim.dram.timing_checker import Checker
from tests.pimsim.props.dram import SMALL, controllers, rich_trace, standard, traces
from tests.props.budget import examples

BETWEEN = {
    "tRCD",
    "tRP",
    "tRAS",
    "tRC",
    "tCCD_S",
    "tCCD_L",
    "tRRD_S",
    "tRRD_L",
    "tFAW",
    "tRTP",
    "tWR",
    "tWTR_S",
    "tWTR_L",
}
KEPT = BETWEEN | {"tRTRS", "tRFC", "turnaround"}


def slack(where, trace, controller, against=None):
    log = simulate(trace, where, controller, commands=True).commands
    return Checker(against or where).check(log)


@settings(max_examples=examples(150), deadline=None)
@given(trace=traces(), controller=controllers)
def test_all_timings_hold_in_small_traces(trace, controller):
    assert all(left >= 0 for left in slack(SMALL, trace, controller).values())


@pytest.mark.parametrize("page", ["open", "closed"])
@pytest.mark.parametrize("refresh", ["none", "all-bank", "per-bank"])
def test_all_timings_hold_under_load(page, refresh):
    kept = slack(SMALL, rich_trace(), Controller(queue=8, page=page, refresh=refresh))
    assert {name: left for name, left in kept.items() if left < 0} == {}


def test_each_timing_is_reached():
    # nothing waits longer than it must: each timing is the last to be waited for somewhere
    kept = slack(SMALL, rich_trace(8000), Controller(queue=8))
    assert {name: kept[name] for name in KEPT} == dict.fromkeys(KEPT, 0)


@pytest.mark.parametrize("name", ["ddr4-3200-heterrag", "hbm2-heterrag"])
def test_shipped_timings_hold(name):
    where = standard(name)
    kept = slack(where, rich_trace(3000, 1, where), Controller())
    assert min(kept.values()) == 0


@pytest.mark.parametrize("name", sorted(BETWEEN | {"tRTRS", "tRFC", "tCWL"}))
def test_the_checker_sees_a_timing_that_is_a_cycle_short(name):
    short = dataclasses.replace(SMALL.timing, **{name: getattr(SMALL.timing, name) - 1})
    lax = dataclasses.replace(SMALL, timing=short)
    broken = {timing for timing, left in slack(lax, rich_trace(), Controller(queue=8), SMALL).items() if left < 0}
    # a write's data begin with tCWL, so what counts from their end is short with it
    assert broken & ({name} if name != "tCWL" else {"tWR", "tWTR_L", "turnaround"})


def test_refreshes_come_when_they_are_due_and_not_before():
    log = simulate(rich_trace(6000), SMALL, Controller(), commands=True).commands
    for rank in (0, 1):
        cycles = log.cycle[(log.command == "REF") & (log.rank == rank)]
        due = SMALL.timing.tREFI * (1 + np.arange(len(cycles)))
        assert len(cycles) > 10
        assert (cycles >= due).all()
        assert (cycles <= due + 100).all()  # closing what is open takes no longer
