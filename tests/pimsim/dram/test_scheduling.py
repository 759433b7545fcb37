"""Layer four: the controller schedules as its docstring says."""

import numpy as np
import pytest

from pimsim import Controller, Trace, WorkloadError, simulate
from tests.pimsim.props.dram import SMALL, reads, rich_trace, standard

DDR4 = "ddr4-3200-heterrag"


def columns(trace: Trace, controller: Controller, where=DDR4) -> list[tuple[str, int, int]]:
    """Reads and writes as (command, row, column), in the order in which they are sent."""
    log = simulate(trace, where, controller, commands=True).commands
    kinds = np.isin(log.command, ["RD", "WR", "RDA", "WRA"])
    return list(zip(*(getattr(log, name)[kinds].tolist() for name in ("command", "row", "column")), strict=True))


def names(trace: Trace, controller: Controller, where=DDR4) -> list[str]:
    return simulate(trace, where, controller, commands=True).commands.command.tolist()


QUIET = {"refresh": "none"}


def test_a_hit_passes_an_older_conflict():
    trace = Trace.of(row=[0, 1, 0], column=[0, 1, 2])
    assert columns(trace, Controller(**QUIET)) == [("RD", 0, 0), ("RD", 0, 2), ("RD", 1, 1)]
    assert simulate(trace, DDR4, Controller(**QUIET)).row_hits == 1


def test_a_queue_of_one_keeps_the_order():
    trace = Trace.of(row=[0, 1, 0], column=[0, 1, 2])
    assert columns(trace, Controller(queue=1, **QUIET)) == [("RD", 0, 0), ("RD", 1, 1), ("RD", 0, 2)]


@pytest.mark.parametrize("cap", [1, 2, 5])
def test_the_cap_ends_a_run_of_hits(cap):
    trace = Trace.of(row=[0, 1, *[0] * 10], column=np.arange(12))
    sent = columns(trace, Controller(row_hit_cap=cap, **QUIET))
    assert [row for _, row, _ in sent].index(1) == cap


def test_the_cap_lets_a_row_go_on_while_nobody_older_waits():
    trace = Trace.of(cycle=np.zeros(20, int), column=np.arange(20))
    assert names(trace, Controller(row_hit_cap=1, **QUIET)).count("ACT") == 1


def test_the_oldest_of_the_ready_comes_first():
    trace = Trace.of(row=[0, 0, 0], bank_group=[0, 1, 2])
    log = simulate(trace, DDR4, Controller(**QUIET), commands=True).commands
    assert log.bank_group[log.command == "ACT"].tolist() == [0, 1, 2]


def test_no_more_than_the_queue_holds_wait():
    trace = reads(500, row=np.arange(500))  # of one bank: each waits until its row is opened
    for depth in (1, 3, 16):
        result = simulate(trace, DDR4, Controller(queue=depth, **QUIET))
        opened = result.done - 48
        waiting = [(result.entered <= cycle).sum() - (opened < cycle).sum() for cycle in result.entered]
        assert max(waiting) == depth


def test_who_has_had_a_row_opened_goes_first_whatever_is_served():
    # the write's row is open when the read comes, which would turn the controller
    trace = Trace.of(cycle=[0, 5], write=[1, 0], bank_group=[0, 1], row=[3, 4])
    assert columns(trace, Controller(**QUIET)) == [("WR", 3, 0), ("RD", 4, 0)]
    log = simulate(Trace.of(cycle=[0, 5], write=[1, 0], row=[3, 4]), DDR4, Controller(**QUIET), commands=True).commands
    assert log.command.tolist() == ["ACT", "WR", "PRE", "ACT", "RD"]


def test_hbm_sends_a_row_and_a_column_command_in_one_cycle():
    rng = np.random.default_rng(0)
    trace = reads(500, bank_group=rng.integers(0, 4, 500), bank=rng.integers(0, 4, 500), row=rng.integers(0, 9, 500))
    log = simulate(trace, "hbm2-heterrag", Controller(), commands=True).commands
    together = log.cycle[1:] == log.cycle[:-1]
    assert together.sum() > 50
    is_column = log.command == "RD"
    assert (is_column[1:] != is_column[:-1])[together].all()
    assert (np.diff(log.cycle[is_column]) > 0).all()
    assert (np.diff(log.cycle[~is_column]) > 0).all()


def test_writes_wait_while_reads_do_and_go_in_batches():
    count = 400
    trace = Trace.of(
        cycle=np.zeros(count, int), write=np.arange(count) % 2, row=np.arange(count) % 2, column=np.arange(count) // 4,
    )  # fmt: skip
    kinds = [
        command for command, _, _ in columns(trace, Controller(queue=16, high_water=0.75, low_water=0.25, **QUIET))
    ]
    runs = [len(run) for run in "".join(kind[0] for kind in kinds).replace("RW", "R W").replace("WR", "W R").split()]
    writes = runs[1::2]
    assert kinds[0] == "RD"
    assert min(writes[:-1]) >= 16 * 0.75 - 16 * 0.25


def test_a_write_alone_is_sent_at_once():
    result = simulate(Trace.of(write=1), DDR4, Controller(**QUIET))
    assert result.last_read_done_cycle == 0
    assert result.last_burst_done_cycle == 22 + 16 + 4
    assert result.avg_read_latency_cycles == 0


def test_a_read_of_what_waits_to_be_written_is_answered_from_the_queue():
    trace = Trace.of(write=[0, 1, 0], row=[0, 1, 1], column=[0, 7, 7])
    result = simulate(trace, DDR4, Controller(**QUIET), commands=True)
    assert result.forwarded == 1
    assert (result.done - result.entered)[2] == 1
    assert (result.commands.command == "RD").sum() == 1


def test_a_closed_page_closes_after_the_last_that_wants_it():
    trace = Trace.of(row=[0, 0, 1], column=[0, 1, 2])
    assert names(trace, Controller(page="closed", **QUIET)) == ["ACT", "RD", "RDA", "ACT", "RDA"]
    assert names(trace, Controller(page="open", **QUIET)) == ["ACT", "RD", "RD", "PRE", "ACT", "RD"]


def test_a_closed_page_spares_the_next_row_the_precharge():
    trace = Trace.of(cycle=[0, 1000], row=[0, 1])
    latency = {
        page: simulate(trace, DDR4, Controller(page=page, **QUIET)).done[1] - 1000 for page in ("open", "closed")
    }
    assert latency == {"open": 22 + 48, "closed": 48}


def test_a_refresh_of_a_rank_leaves_the_other_rank_alone():
    # reads of rank 1 during rank 0's refresh, which begins a cycle earlier than its own
    trace = Trace.of(cycle=np.arange(2000) * 10, rank=1, column=np.arange(2000) % 128)
    log = simulate(trace, DDR4, Controller(), commands=True).commands
    assert (log.command == "REF").sum() == 2
    assert log.rank[log.command == "REF"].tolist() == [0, 1]


def test_per_bank_refresh_takes_turns_and_costs_less():
    trace = rich_trace(4000)
    log = simulate(trace, SMALL, Controller(refresh="per-bank"), commands=True).commands
    mine = (log.command == "REFB") & (log.rank == 0)
    places = list(zip(log.bank_group[mine].tolist(), log.bank[mine].tolist(), strict=True))
    assert places[:5] == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0)]
    i = np.arange(60_000)
    stream = Trace.of(
        cycle=np.zeros(60_000, int), bank_group=i % 4, bank=i // 512 % 4, row=i // 2048, column=i // 4 % 32
    )
    whole, single = (
        simulate(stream, "hbm2", Controller(refresh=refresh)).last_read_done_cycle
        for refresh in ("all-bank", "per-bank")
    )
    assert single < whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": 0}, "queue must be 1 to 65536, not 0"),
        ({"row_hit_cap": 0}, "row hit cap must be 1 at least, not 0"),
        ({"page": "ajar"}, "page must be open or closed, not 'ajar'"),
        ({"refresh": "never"}, "refresh must be one of none, all-bank, per-bank, not 'never'"),
        ({"high_water": 0.1}, "water marks must be 0 <= low <= high < 1"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(WorkloadError, match=message):
        Controller(**changes)


def test_a_timing_beyond_reason_is_named():
    with pytest.raises(WorkloadError, match="tWR must be 16777216 cycles at most, not 1073741824"):
        simulate(Trace.of(), standard(tWR=1 << 30))


def test_a_standard_without_per_bank_refresh_is_named():
    with pytest.raises(WorkloadError, match="ddr4-3200-heterrag has no per-bank refresh"):
        simulate(Trace.of(), DDR4, Controller(refresh="per-bank"))
