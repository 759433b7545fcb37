"""Layer two: latency and bandwidth have the shape that arithmetic on the timings gives."""

import numpy as np
import pytest

from pimsim import Controller, Standard, Trace, simulate
from tests.pimsim.props.dram import QUIET, reads

DDR4, DDR4_1RANK, HBM2 = "ddr4-3200-heterrag", "ddr4-3200-heterrag-1rank", "hbm2-heterrag"


@pytest.mark.parametrize("name", [DDR4, HBM2])
def test_an_unloaded_read_takes_row_column_and_burst(name):
    timing = Standard.load(name).timing
    result = simulate(Trace.of(row=5), name, QUIET)
    assert result.avg_read_latency_cycles == timing.tRCD + timing.tCL + timing.tBL
    assert result.last_read_done_cycle == result.avg_read_latency_cycles


@pytest.mark.parametrize("name", [DDR4, HBM2])
def test_a_row_conflict_chain_takes_trc_each(name):
    timing = Standard.load(name).timing
    result = simulate(reads(1000, row=np.arange(1000)), name, QUIET)
    assert result.last_read_done_cycle == 999 * timing.tRC + timing.tRCD + timing.tCL + timing.tBL
    assert result.provenance.bounds[0].name == "rows of a bank, tRC"
    assert result.provenance.bounds[0].nearness == 1


@pytest.mark.parametrize("name", [DDR4, HBM2])
def test_a_stream_of_hits_in_one_bank_takes_tccd_l_each(name):
    where = Standard.load(name)
    timing, columns = where.timing, where.organisation.columns
    result = simulate(reads(columns, column=np.arange(columns)), name, QUIET)
    assert result.last_read_done_cycle == (columns - 1) * timing.tCCD_L + timing.tRCD + timing.tCL + timing.tBL
    assert result.row_hits == columns - 1
    assert result.provenance.bounds[0].name == "columns of a bank group, tCCD_L"


def test_a_bank_of_hbm2_gives_8_gbps_and_256_banks_2_tbps():
    where = Standard.load(HBM2)
    per_bank = where.organisation.burst_bytes / (where.timing.tCCD_L * where.tck_ns)
    assert per_bank == 8.0
    assert 256 * per_bank == pytest.approx(2048)
    result = simulate(reads(4096, row=np.arange(4096) // 32, column=np.arange(4096) % 32), HBM2, QUIET)
    assert 0.75 * per_bank < result.bandwidth_gbps < per_bank  # rows change every 32 columns


@pytest.mark.parametrize("name", [DDR4, HBM2])
def test_ping_pong_between_bank_groups_takes_tbl_each(name):
    timing = Standard.load(name).timing
    i = np.arange(64)
    result = simulate(reads(64, bank_group=i % 2, column=i // 2), name, QUIET)
    least = 63 * timing.tBL + timing.tRCD + timing.tCL + timing.tBL
    assert least <= result.last_read_done_cycle <= least + timing.tRRD_S


def test_random_reads_in_a_rank_are_bound_by_tfaw_at_13_65_gbps():
    rng = np.random.default_rng(0)
    places = {"bank_group": rng.integers(0, 4, 20000), "bank": rng.integers(0, 4, 20000)}
    result = simulate(reads(20000, row=rng.integers(0, 1 << 17, 20000), **places), DDR4_1RANK, QUIET)
    limit = 64 / (30 / 4 * 0.625)
    assert limit == pytest.approx(13.65, abs=0.005)
    assert 0.985 * limit < result.bandwidth_gbps < limit * 20000 / result.activates
    assert result.provenance.bounds[0].name == "activations of a rank, tFAW"
    assert result.provenance.bounds[0].nearness > 0.985


def test_a_768d_vector_takes_120_ns_and_a_row_miss():
    i = np.arange(48)
    result = simulate(reads(48, bank_group=i % 4, column=i // 4), DDR4_1RANK, QUIET)
    assert 192 + 44 <= result.last_read_done_cycle <= 192 + 44 + 3 * 4  # the other groups open tRRD_S apart
    assert 192 * 0.625 == 120


@pytest.mark.parametrize("name", [DDR4_1RANK, HBM2])
def test_a_stream_loses_to_refresh_what_the_formula_says(name):
    where = Standard.load(name)
    timing, columns = where.timing, where.organisation.columns
    i = np.arange(200_000)
    trace = reads(len(i), bank_group=i % 4, column=i // 4 % columns, row=i // 4 // columns, bank=i // 4 // columns % 4)
    result = simulate(trace, where)
    lost = (timing.tRTP + timing.tRP + timing.tRFC + timing.tRCD) / timing.tREFI
    assert result.bandwidth_gbps == pytest.approx(where.peak_gbps * (1 - lost), rel=0.006)


def test_latency_rises_with_the_load_and_bandwidth_saturates():
    rng = np.random.default_rng(2)
    places = {
        "rank": rng.integers(0, 2, 8000),
        "bank_group": rng.integers(0, 4, 8000),
        "bank": rng.integers(0, 4, 8000),
    }
    results = [
        simulate(Trace.of(cycle=np.arange(8000) * gap, row=rng.integers(0, 9999, 8000), **places), DDR4, QUIET)
        for gap in (64, 16, 8, 4, 1)
    ]
    latencies = [result.avg_read_latency_cycles for result in results]
    bandwidths = [result.bandwidth_gbps for result in results]
    assert latencies == sorted(latencies)
    assert latencies[0] == pytest.approx(22 + 48, rel=0.01)  # another row is open, as a rule
    assert bandwidths[0] == pytest.approx(64 / 64 / 0.625, rel=0.01)
    assert bandwidths[-1] == pytest.approx(bandwidths[-2], rel=0.02)


def test_a_deeper_queue_hides_more():
    rng = np.random.default_rng(4)
    trace = reads(
        6000, bank_group=rng.integers(0, 4, 6000), bank=rng.integers(0, 4, 6000), row=rng.integers(0, 9, 6000)
    )
    cycles = [simulate(trace, DDR4, Controller(queue=queue)).last_read_done_cycle for queue in (1, 4, 16, 64)]
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[0] > 2 * cycles[-1]


def test_writes_to_where_one_reads_cost_turnarounds():
    i = np.arange(4000)
    places = {"bank_group": i % 4, "column": i // 4 % 128, "row": i // 512}
    pure = simulate(reads(4000, **places), DDR4, QUIET)
    mixed = simulate(Trace.of(cycle=np.zeros(4000, int), write=i // 2 % 2, **places), DDR4, QUIET)
    assert pure.bandwidth_gbps > 1.05 * mixed.bandwidth_gbps


def test_pseudo_channels_are_independent():
    where = Standard.load("hbm2")
    i = np.arange(3000)
    alone = Trace.of(cycle=np.zeros(3000, int), channel=5, bank_group=i % 4, row=i // 128, column=i // 4 % 32)
    all_of_them = Trace.of(
        cycle=np.zeros(48000, int),
        **{name: np.repeat(getattr(alone, name), 16) for name in ("bank_group", "row", "column")},
        channel=np.tile(np.arange(16), 3000),
    )
    one, sixteen = simulate(alone, where), simulate(all_of_them, where)
    assert sixteen.last_read_done_cycle == one.last_read_done_cycle
    assert sixteen.bandwidth_gbps == pytest.approx(16 * one.bandwidth_gbps)
    assert sixteen.peak_gbps == pytest.approx(256)
