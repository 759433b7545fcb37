"""The command stream: every command against every rule, and a replay that tries each cycle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.hbm_pim import Attention, Device, attention_commands
from pimsim.hbm_pim.kernel import ACT, MAC, PRE, CommandLog, run, run_logged
from pimsim.hbm_pim.mapping import LEVELS, attention_shape, rules
from pimsim.hbm_pim.stream import BARRIER, MV_GB, MV_SB, SFM, WR_GB, Stream, attention_stream, product_stream
from tests.pimsim.hbm_pim.naive_rules import replay, violations
from tests.props.budget import examples

DEVICES = ("hbm3-attacc", "hbm2-heterrag")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "name",
    ["hbm2-heterrag", pytest.param("hbm3-attacc", marks=pytest.mark.full(proof="test_the_kernel_equals_the_replay"))],
)
def test_the_kernel_equals_the_replay(name: str, level: str) -> None:
    device = Device.load(name)
    for length, head_dim, jobs, vectors in ((96, 64, 1, 1), (130, 128, 3, 1), (64, 32, 2, 2), (300, 64, 2, 1)):
        timing = rules(device, level, power_limit=True, refresh=False, vectors=vectors)
        timing = timing._replace(refi=700, rfc=90)  # refreshes that come often
        stream = attention_stream(attention_shape(device, level, length, head_dim, 2, vectors), jobs)
        assert tuple(run(stream, timing)) == replay(stream, timing)


@settings(max_examples=examples(25), deadline=None)
@given(
    level=st.sampled_from(sorted(LEVELS)),
    name=st.sampled_from(DEVICES),
    length=st.integers(1, 400),
    head_dim=st.sampled_from((16, 64, 80, 128)),
    jobs=st.integers(1, 4),
    power_limit=st.booleans(),
    refi=st.sampled_from((0, 600, 5070)),
    window=st.integers(2, 40),
)
def test_no_command_breaks_a_rule(
    level: str, name: str, length: int, head_dim: int, jobs: int, power_limit: bool, refi: int, window: int
) -> None:
    device = Device.load(name)
    timing = rules(device, level, power_limit=power_limit, refresh=False)._replace(refi=refi, rfc=100, window=window)
    stream = attention_stream(attention_shape(device, level, length, head_dim, 2, 1), jobs)
    counts, log = run_logged(stream, timing)
    assert violations(log, timing) == []
    assert log.cycle.max() == counts.cycles
    for kind in (MAC, WR_GB, MV_SB, MV_GB, SFM):  # each request is issued once
        assert (log.kind == kind).sum() == (stream.kind == kind).sum()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("mac", "MAC to MAC"),
        ("rcd", "ACT to MAC"),
        ("rtp", "MAC to PRE"),
        ("rp", "PRE to ACT"),
        ("move", "move to move"),
    ],
)
def test_the_checker_finds_a_rule_that_was_not_kept(broken: str, words: str) -> None:
    """The commands of a device whose rule is a cycle shorter break the rule."""
    timing = rules(Device.load("hbm3-attacc"), "bank", power_limit=True, refresh=False)
    shorter = timing._replace(**{broken: getattr(timing, broken) - 1, "ras": 0, "rc": 0})
    stream = attention_stream(attention_shape(Device.load("hbm3-attacc"), "bank", 1024, 128, 2, 1), 1)
    _, log = run_logged(stream, shorter)
    assert any(words in line for line in violations(log, timing._replace(ras=0, rc=0)))


def macs(*places: tuple[int, int]) -> Stream:
    """MACs at (slot, row)."""
    slots, rows = zip(*places, strict=True)
    size = len(places)
    return Stream(
        np.zeros(size, np.int8), np.array(slots, np.int16), np.array(rows, np.int32), np.arange(size).astype(np.int16)
    )


def cycles_of(log: CommandLog, kind: int) -> list[int]:
    return log.cycle[log.kind == kind].tolist()


def test_each_rule_of_the_bank_level_by_hand() -> None:
    """AttAcc's numbers: ACT to MAC 19, MAC to MAC 6, MAC to PRE 8, PRE to ACT 19, and ACT to PRE 45."""
    timing = rules(Device.load("hbm3-attacc"), "bank", power_limit=True, refresh=False)
    _, log = run_logged(macs((0, 0), (0, 0), (0, 1), (0, 2)), timing)
    assert cycles_of(log, ACT) == [1, 65, 129]  # 1 + tRAS 45 + tRP 19
    assert cycles_of(log, PRE) == [46, 110]
    assert cycles_of(log, MAC) == [20, 26, 84, 148]
    _, log = run_logged(macs(*[(0, 0)] * 8, (0, 1)), timing)
    assert cycles_of(log, MAC)[:8] == list(range(20, 68, 6))
    assert cycles_of(log, PRE) == [62 + 8]  # tRAS has passed
    assert cycles_of(log, ACT) == [1, 89]


def test_bank_groups_hide_the_next_row() -> None:
    """At the bank-group level the next bank opens behind the MACs of this one: MACs never pause."""
    timing = rules(Device.load("hbm3-attacc"), "bg", power_limit=False, refresh=False)
    _, log = run_logged(macs(*[(0, 0)] * 32, *[(1, 0)] * 32, *[(2, 0)] * 32), timing)
    assert cycles_of(log, MAC) == list(range(20, 20 + 4 * 96, 4))


def test_buffer_level_keeps_the_four_activate_window() -> None:
    limited = rules(Device.load("hbm2-heterrag"), "buffer", power_limit=True, refresh=False)
    assert (limited.rrd_stack_id, limited.rrd_group, limited.faw) == (2, 2, 16)
    timing = rules(Device.load("hbm3-attacc"), "buffer", power_limit=True, refresh=False)
    assert (timing.rrd_stack_id, timing.rrd_group, timing.faw) == (0, 0, 0)  # AttAcc's rules know of none
    timing = timing._replace(rrd_stack_id=2, rrd_group=4, faw=40)
    _, log = run_logged(macs(*[(slot, 0) for slot in (0, 4, 8, 12, 1, 5)]), timing)
    assert cycles_of(log, ACT) == [1, 3, 5, 7, 41, 43]


def test_a_barrier_holds_columns_back_but_not_rows() -> None:
    timing = rules(Device.load("hbm3-attacc"), "bg", power_limit=True, refresh=False)
    two = macs((0, 0), (0, 0), (1, 0))
    stream = Stream(np.array([MAC, BARRIER, MAC], np.int8), *two[1:])
    _, log = run_logged(stream, timing)
    assert cycles_of(log, ACT) == [1, 3]  # ACT takes two cycles of the row bus
    assert cycles_of(log, MAC) == [20, 26]


def test_refresh_closes_waits_and_opens_again() -> None:
    timing = rules(Device.load("hbm3-attacc"), "bank", power_limit=True, refresh=False)._replace(refi=130, rfc=50)
    counts, log = run_logged(macs(*[(0, 0)] * 21), timing)
    assert counts.refreshes == 1
    assert cycles_of(log, PRE) == [136]  # the last MAC before it at 128, and 8
    assert cycles_of(log, ACT) == [1, 136 + 19 + 50]
    assert cycles_of(log, MAC)[-2:] == [224, 230]


def test_commands_of_a_layer_are_those_of_its_result() -> None:
    layer = Attention(512, 16, 128)
    result, log = attention_commands("hbm3-attacc", layer)
    assert result.mac_commands == 16 * (log.kind == MAC).sum()
    assert result.activates == (log.kind == ACT).sum()
    assert result.cycles == log.cycle.max()


def test_a_product_issues_each_request_once() -> None:
    device = Device.load("hbm2-heterrag")
    shape = attention_shape(device, "bank", 512, 128, 2, 1)._replace(context_outputs=0)
    timing = rules(device, "bank", power_limit=False, refresh=True)
    stream = product_stream(shape, 3)
    counts, log = run_logged(stream, timing)
    assert violations(log, timing) == []
    assert (log.kind == MAC).sum() == 3 * shape.score_outputs * shape.score_macs
    assert tuple(counts) == replay(stream, timing)
