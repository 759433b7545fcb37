"""Layer one: every standard runs, every request is served once, and what is counted adds up."""

import numpy as np
import pytest
from hypothesis import given, settings

from pimsim import Controller, Standard, Trace, simulate
from pimsim.standard import names
from tests.pimsim.props.dram import SMALL, controllers, rich_trace, traces
from tests.props.budget import examples


def over_all_channels(where: Standard, count: int = 4000) -> Trace:
    size = where.organisation
    i = np.random.default_rng(3).integers(0, 1 << 30, (6, count))
    limits = (size.channels * size.pseudo_channels, size.ranks, size.bank_groups, size.banks, size.rows, size.columns)
    parts = ("channel", "rank", "bank_group", "bank", "row", "column")
    return Trace.of(
        cycle=np.arange(count) // 8,
        write=i[0] // 64 % 4 == 0,
        **{name: values % limit for name, values, limit in zip(parts, i, limits, strict=True)},
    )


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("refresh", ["none", "all-bank"])
def test_each_standard_runs(name, refresh):
    where = Standard.load(name)
    trace = over_all_channels(where)
    result = simulate(trace, where, Controller(refresh=refresh))
    assert result.reads + result.writes == len(trace)
    assert result.done[trace.write == 0].min() > 0
    assert 0 < result.bandwidth_gbps <= result.peak_gbps
    assert 0 < result.provenance.bounds[0].nearness <= 1
    assert result.provenance.warnings == []


@settings(max_examples=examples(60), deadline=None)
@given(trace=traces(), controller=controllers)
def test_each_request_is_served_once(trace, controller):
    result = simulate(trace, SMALL, controller, commands=True)
    columns = np.isin(result.commands.command, ["RD", "WR", "RDA", "WRA"])
    assert columns.sum() == len(trace) - result.forwarded
    opened = (result.commands.command == "ACT").sum()
    assert opened == result.activates
    assert 0 <= result.activates - result.precharges <= 8  # what is still open
    assert result.row_hits <= columns.sum()
    assert np.all(result.entered >= trace.cycle)
    assert np.all(np.diff(result.entered) >= 1)  # in order, one a cycle
    assert all(bound.nearness <= 1 for bound in result.provenance.bounds)


def test_equal_calls_give_equal_results():
    first, second = (simulate(rich_trace(), SMALL).as_dict() for _ in range(2))
    assert first == second


def test_the_configuration_hash_tells_settings_apart():
    hashes = {
        simulate(rich_trace(50), SMALL, controller).provenance.configuration
        for controller in (Controller(), Controller(queue=16), Controller(page="closed"))
    }
    assert len(hashes) == 3


def test_a_long_pause_is_jumped_over():
    trace = Trace.of(cycle=[0, 1 << 40], row=[0, 1])
    result = simulate(trace, "ddr4-3200-heterrag", Controller(refresh="none"))
    assert result.last_read_done_cycle == (1 << 40) + 22 + 22 + 22 + 4


def test_refreshes_go_on_while_nobody_asks():
    result = simulate(Trace.of(cycle=[0, 10 * 12480 + 5000]), "ddr4-3200-heterrag")
    assert result.refreshes == 10 * 2
