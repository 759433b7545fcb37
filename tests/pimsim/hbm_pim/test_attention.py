"""Attention as a whole: conservation, shapes over its sizes, groups of queries, stacks, energy, what is refused."""

import json
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.errors import PimsimError, WorkloadError
from pimsim.hbm_pim import Attention, Device, attention
from pimsim.hbm_pim.mapping import LEVELS, Spread
from tests.props.budget import examples

LAYER = Attention(2048, 16, 128)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["hbm3-attacc", "hbm2-heterrag"])
def test_macs_read_every_byte_of_k_and_v_once(name: str, level: str) -> None:
    device = Device.load(name)
    result = attention(device, replace(LAYER, heads=32, level=level))
    column = device.standard.organisation.burst_bytes
    assert result.kv_bytes == 2 * 2048 * 32 * 128 * 2
    assert result.mac_commands * Spread.of(device, level).banks_per_slot * column == result.kv_bytes
    assert result.read_bytes == result.kv_bytes
    assert result.effective_tbps == pytest.approx(result.kv_bytes / (result.time_us * 1e-6) * 1e-12)
    assert result.time_us == pytest.approx(result.cycles * device.standard.tck_ns * 1e-3)


@settings(max_examples=examples(40), deadline=None)
@given(
    level=st.sampled_from(sorted(LEVELS)),
    length=st.integers(1, 600),
    heads=st.integers(1, 40),
    head_dim=st.integers(1, 256),
    width=st.sampled_from((1, 2)),
)
def test_what_is_read_is_at_least_what_is_there(level: str, length: int, heads: int, head_dim: int, width: int) -> None:
    result = attention("hbm3-attacc", Attention(length, heads, head_dim, width, level=level))
    assert result.read_bytes >= result.kv_bytes > 0
    assert result.cycles >= max(cycles for _, cycles in result.bounds[:1])
    assert 0 < result.provenance.bounds[0].nearness <= 1
    assert result.provenance.warnings == []


@pytest.mark.parametrize("fidelity", ["event", "closed"])
def test_energy_is_the_sum_of_its_parts(fidelity: str) -> None:
    for level in LEVELS:
        energy = dict(attention("hbm3-attacc", replace(LAYER, level=level, fidelity=fidelity)).energy_nj)
        assert energy.pop("total") == pytest.approx(sum(energy.values()))
        assert min(energy.values()) > 0


def test_energy_of_a_bit_by_level() -> None:
    """AttAcc: 0.55, 1.56 and 3.29 pJ a bit from the row to the unit, in nJ; four reads' energy computes (Newton)."""
    for level, picojoules in (("bank", 0.55), ("bg", 1.56), ("buffer", 3.29)):
        result = attention("hbm3-attacc", replace(LAYER, level=level, refresh=False))
        bits = result.read_bytes * 8
        # rows are read whole, so that the energy of opening them is one of bits, too
        path = result.energy_nj["read"] + result.energy_nj["activate"]
        assert path == pytest.approx(bits * picojoules * 1e-3, rel=1e-6)
        assert result.energy_nj["compute"] == pytest.approx(4 * bits * 0.55e-3)


def test_placements_keep_their_order() -> None:
    bank, group, buffer = (attention("hbm3-attacc", replace(LAYER, level=level)) for level in LEVELS)
    assert bank.cycles * 3 < group.cycles < buffer.cycles / 2
    assert bank.energy_nj["read"] < group.energy_nj["read"] < buffer.energy_nj["read"]
    assert [result.bound for result in (bank, group, buffer)] == ["power limit", "power limit", "data bus"]
    free = attention("hbm3-attacc", replace(LAYER, power_limit=False))
    assert free.bound == "column interval"
    assert free.cycles < bank.cycles


def test_refresh_costs_its_share() -> None:
    layer = replace(LAYER, length=4096, heads=256)
    with_refresh, without = (attention("hbm3-attacc", replace(layer, refresh=refresh)) for refresh in (True, False))
    share = 1 - without.cycles / with_refresh.cycles
    assert with_refresh.refreshes == with_refresh.cycles // 5070
    assert share == pytest.approx((8 + 19 + 456 + 19) / 5070, rel=0.1)


def test_groups_of_queries_share_what_they_read() -> None:
    device = Device.load("hbm2-heterrag")
    layer = Attention(1024, 64, 128, batch=4)
    every, eight, one = (attention(device, replace(layer, kv_heads=heads)) for heads in (64, 8, 1))
    assert every.kv_bytes == 8 * eight.kv_bytes == 64 * one.kv_bytes
    # two reads of four queries each, as many as the buffers hold; of one head sixteen such reads
    assert eight.read_bytes * 4 == one.read_bytes * 4 == every.read_bytes
    assert eight.mac_commands * 4 == every.mac_commands
    assert eight.cycles < every.cycles
    assert eight.bound == "compute"  # the units multiply each column four times
    assert attention(device, layer).mac_commands == every.mac_commands


def test_stacks_share_the_heads() -> None:
    layer = replace(LAYER, length=1024, heads=128, refresh=False)
    one, two, eight = (attention("hbm3-attacc", replace(layer, stacks=stacks)) for stacks in (1, 2, 8))
    assert one.mac_commands == two.mac_commands == eight.mac_commands
    assert one.cycles / two.cycles == pytest.approx(2, rel=0.02)
    assert one.cycles / eight.cycles == pytest.approx(8, rel=0.1)
    # fewer heads than channels leave channels idle, and gain nothing
    few = replace(LAYER, heads=8)
    assert attention("hbm3-attacc", replace(few, stacks=4)).cycles == attention("hbm3-attacc", few).cycles


def test_longer_contexts_and_more_requests_take_longer() -> None:
    for level in LEVELS:
        cycles = [
            attention("hbm3-attacc", replace(LAYER, level=level, length=length)).cycles for length in (1, 64, 500)
        ]
        assert cycles == sorted(cycles)
        assert cycles[0] > 0
    single, double = (attention("hbm3-attacc", replace(LAYER, batch=batch, refresh=False)) for batch in (1, 2))
    assert double.kv_bytes == 2 * single.kv_bytes
    assert single.cycles < double.cycles <= 2 * single.cycles


def test_the_softmax_units_can_be_the_limit() -> None:
    slow = Device.load("hbm3-attacc", {"softmax.gflops": 10})
    result = attention(slow, LAYER)
    assert result.bound == "softmax"
    assert result.time_us == pytest.approx(5 * 2048 * 16 / 10e3, rel=1e-3)
    assert result.stream_cycles == attention("hbm3-attacc", LAYER).cycles


def test_equal_questions_have_equal_answers() -> None:
    first, again = (attention("hbm3-attacc", LAYER).as_dict() for _ in range(2))
    assert first == again
    other = attention(Device.load("hbm3-attacc", {"timing.mac_bank_power_limit": 7}), LAYER).as_dict()
    assert other["provenance"]["configuration_hash"] != first["provenance"]["configuration_hash"]
    assert other["cycles"] > first["cycles"]
    assert json.loads(json.dumps(first)) == first
    provenance = first["provenance"]
    assert provenance["clocks_mhz"]["memory"] == pytest.approx(1300.4, abs=0.1)
    assert any(value["name"] == "units.bank.buffer_bytes" for value in provenance["assumed"])
    assert provenance["energy_table"]["cell"] == "0.44 pJ/bit"


@pytest.mark.timing
def test_speed() -> None:
    """A layer takes less than 50 ms with every command, and the closed form much less than a millisecond."""
    for fidelity, most in (("event", 0.05), ("closed", 0.0005)):  # 50 us where nothing else runs
        layer = replace(LAYER, fidelity=fidelity)
        attention("hbm3-attacc", layer)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            attention("hbm3-attacc", layer)
            times.append(time.perf_counter() - start)
        assert min(times) < most


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": 0}, "heads must be 1 at least, not 0"),
        ({"length": -5}, "length must be 1 at least, not -5"),
        ({"head_dim": 0}, "head_dim must be 1"),
        ({"batch": 0}, "batch must be 1"),
        ({"kv_heads": 3}, "16 heads cannot share 3 KV heads"),
        ({"kv_heads": 32}, "kv_heads must divide heads"),
        ({"kv_heads": -1}, "kv_heads must be 1 at least"),
        ({"stacks": -2}, "stacks must be 1 at least"),
        ({"head_dim": 513}, r"wider than a row of hbm3-attacc \(1024 bytes\): take a head_dim of 512"),
        ({"width": 3}, "bytes must be one of 1, 2, 4"),
        ({"level": "row"}, "unknown level 'row': choose one of bank, bg, buffer"),
        ({"fidelity": "guess"}, "unknown fidelity 'guess'"),
        ({"length": 1 << 24, "heads": 160}, "shorten length or batch, or take more stacks"),
    ],
)
def test_what_cannot_be(change: dict[str, object], words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        attention("hbm3-attacc", replace(LAYER, **change))


def test_a_device_that_nobody_knows() -> None:
    with pytest.raises(PimsimError, match=r"hbm9.*hbm3-attacc"):
        attention("hbm9", LAYER)
