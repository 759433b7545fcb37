"""The kernel against the same rules in plain Python, cycle by cycle: the same commands in the same cycles."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim import Controller, Standard, simulate
from pimsim.dram.commands import CommandLog
from tests.pimsim.dram.naive_controller import NaiveController
from tests.pimsim.props.dram import SMALL, controllers, rich_trace, standard, traces
from tests.props.budget import examples


def rows(log: CommandLog) -> list[tuple]:
    parts = [getattr(log, name).tolist() for name in log.__slots__ if name != "channel"]
    return list(zip(*parts, strict=True))


def compare(trace, where: Standard, controller: Controller) -> None:
    naive = NaiveController(where, controller)
    expected = naive.run(trace)
    result = simulate(trace, where, controller, commands=True)
    assert rows(result.commands) == expected
    assert result.done.tolist() == [naive.done[i] for i in range(len(trace))]
    assert result.entered.tolist() == [naive.entered[i] for i in range(len(trace))]


@settings(max_examples=examples(300), deadline=None)
@given(trace=traces(), controller=controllers)
def test_small_traces(trace, controller):
    compare(trace, SMALL, controller)


@settings(max_examples=examples(150), deadline=None)
@given(trace=traces(), controller=controllers)
def test_small_traces_with_two_command_buses(trace, controller):
    compare(trace, dataclasses.replace(SMALL, command_buses=2), controller)


@settings(max_examples=examples(40), deadline=None)
@given(seed=st.integers(0, 1 << 30), writes=st.sampled_from([0.0, 0.2, 0.6]), controller=controllers)
def test_longer_traces_under_load(seed, writes, controller):
    compare(rich_trace(150, seed, writes=writes), SMALL, controller)


def test_shipped_timings():
    for name in ("ddr4-3200-heterrag", "hbm2-heterrag"):
        where = standard(name, organisation={"bank_groups": 2, "banks": 2}, tREFI=1500)
        compare(rich_trace(200, 1, where), where, Controller(queue=8))
