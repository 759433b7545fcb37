"""The ceilings of a rank that follow from DDR4-3200 and the RPM: each is reached, and none is passed."""

import numpy as np
import pytest

from pimsim import Controller, Trace, simulate
from pimsim.dimm_pim.search import simulate_search
from pimsim.dimm_pim.state import LOGGED, READ
from tests.pimsim.props.searches import device, drawn, ran, traversal

ONE_RANK = {"organisation__channels": 1, "organisation__dimms": 1, "organisation__ranks": 1}
BARE = {**ONE_RANK, "rpm__cache_bytes": 0, "vectors__refresh": False}


def test_the_unit_eats_64_gb_a_second_and_its_rank_gives_25_6():
    on = device()
    assert on.vectors.bytes / on.compute_ps * 1e3 == pytest.approx(64)
    assert on.standard.peak_gbps == pytest.approx(25.6)
    assert on.organisation.channels * on.standard.peak_gbps == pytest.approx(102.4)
    assert on.organisation.all_ranks * on.standard.peak_gbps == pytest.approx(409.6)


def test_sixteen_ranks_hold_256_gb():
    on = device()
    assert on.organisation.all_ranks == 16
    assert on.organisation.all_ranks * on.standard.organisation.rank_bytes == 256 << 30


def test_a_768_d_vector_is_48_bursts_192_cycles_and_a_row_miss():
    on = device(**BARE)
    p, _, state = ran(traversal([[(None, [0])]], 8), on, log=100)
    log = state.log[: state.scalars[LOGGED]]
    reads = log[log[:, 1] == READ, 0]
    assert len(reads) == on.vector_bursts == 48
    begin = log[0, 0]
    # the first ACT, then tRCD; the second stripe's row opens tRRD_S after the first, within the first bursts
    assert reads[0] - begin == p.tRCD
    assert reads[-1] + p.tBL - reads[0] == 192
    assert 192 * p.tck_ps == 120_000


def stream(count, **changes):
    """GB/s of one rank while it reads `count` vectors one after another."""
    p, _, state = ran(traversal([[(None, range(count))]], count), device(**BARE, **changes), log=1 << 20)
    log = state.log[: state.scalars[LOGGED]]
    reads = log[log[:, 1] == READ, 0]
    return 64 * len(reads) / ((reads[-1] + p.tBL - reads[0]) * p.tck_ps / 1e3)


def test_vectors_over_two_bank_groups_stream_at_the_ranks_peak():
    assert stream(400) == pytest.approx(25.6, rel=0.01)


def test_vectors_in_one_bank_stream_at_tccd_l():
    assert stream(400, vectors__bank_groups=1) == pytest.approx(25.6 * 4 / 6, rel=0.02)


def test_random_bursts_are_bound_by_tfaw():
    # every vertex in another row, the banks in turn: 30 / 4 = 7.5 cycles an ACT
    on = device(**BARE, vectors__dim=16, vectors__bank_groups=1)
    slots = [place * 128 for place in range(2000)]
    p, _, state = ran(traversal([[(None, slots)]], slots[-1] + 1), on, log=10_000)
    reads = state.log[: state.scalars[LOGGED]]
    reads = reads[reads[:, 1] == READ, 0]
    assert len(reads) == 2000
    assert (reads[-1] - reads[0]) / 1999 == pytest.approx(7.5, rel=0.001)
    assert 64 / (7.5 * p.tck_ps / 1e3) == pytest.approx(13.65, rel=1e-3)


def test_refresh_takes_its_share_of_a_stream():
    path, refreshed = traversal([[(None, range(3000))]], 3000), {**BARE, "vectors__refresh": True}
    ratio = simulate_search(path, device(**BARE)).time_us / simulate_search(path, device(**refreshed)).time_us
    timing = device().standard.timing
    lost = (timing.tRTP + timing.tRP + timing.tRFC + timing.tRCD) / timing.tREFI
    assert ratio == pytest.approx(1 - lost, abs=0.005)


def test_a_miss_is_bound_by_the_rank_and_a_hit_by_the_unit():
    missing = simulate_search(traversal([[(None, range(500))]] * 8, 500), device(**BARE))
    assert missing.bound == "rank DRAM"
    assert missing.bounds[0].nearness > 0.97
    hitting = simulate_search(traversal([[(None, [0, 1] * 500)]] * 8, 2), device(**ONE_RANK))
    assert hitting.cache()["misses"] == 2
    assert hitting.bound == "distance units"
    assert hitting.bounds[0].nearness > 0.97


def test_one_query_at_a_time_is_bound_by_the_dependency_of_its_hops():
    result = simulate_search(drawn(1, queries=20, hops=30, shard=5000), device(workload__batch=1))
    assert result.bound == "dependency of hops"
    assert result.bounds[0].nearness > 0.5


@pytest.mark.parametrize(
    ("changes", "most"),
    # single bursts: a row conflict holds up all behind it here, where the controller takes others first
    [({}, 1.03), ({"vectors__dim": 384}, 1.03), ({"vectors__dim": 16, "vectors__bank_groups": 1}, 1.5)],
)
def test_a_rank_reads_as_fast_as_the_dram_controller(changes, most):
    """The same reads as a trace."""
    on = device(**BARE, **changes)
    vertices = [(vertex * 7919) % 60_000 for vertex in range(1500)]
    p, _, state = ran(traversal([[(None, vertices)]], 60_000), on, log=1 << 20)
    log = state.log[: state.scalars[LOGGED]]
    reads = log[log[:, 1] == READ]
    ours = reads[-1, 0] + p.tCL + p.tBL - log[0, 0]
    bank, row = reads[:, 3], reads[:, 4]
    trace = Trace.of(
        cycle=np.zeros(len(reads), np.int64), bank_group=bank % p.bank_groups, bank=bank // p.bank_groups, row=row,
        column=np.arange(len(reads)) % 128,
    )  # fmt: skip
    theirs = simulate(trace, "ddr4-3200-heterrag-1rank", Controller(refresh="none")).last_read_done_cycle
    assert 0.97 * theirs <= ours <= most * theirs
