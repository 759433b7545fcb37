"""The event model: equal to a plain one, every DRAM timing kept, nothing lost on the way, sensible at its limits."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.dimm_pim.search import simulate_search
from pimsim.dimm_pim.state import (
    ACT,
    ACTIVATES,
    BUSY,
    INSTRUCTIONS,
    LIST_BURSTS,
    LOGGED,
    PRE,
    READ,
    REFRESH,
    RESULTS,
    SEND_QUERY,
    TRANSFERS,
    VECTOR_BURSTS,
)
from tests.pimsim.dimm_pim.naive_device import Model
from tests.pimsim.props.searches import device, drawn, ran, traversal
from tests.props.budget import examples

VARIANTS = {
    "default": {},
    "no-cache": {"rpm__cache_bytes": 0},
    "small-cache": {"rpm__cache_bytes": 6144, "workload__batch": 3},
    "one-channel": {"organisation__channels": 1, "organisation__dimms": 1},
    "continuous": {"workload__admission": "continuous", "workload__batch": 4},
    "few-lanes": {"tpm__lanes": 1, "tpm__queries_a_lane": 2, "graph__ef": 300},
    "uncompressed": {"channel__compression": False},
    "one-phase": {"channel__two_phase": False},
    "one-bank": {"vectors__bank_groups": 1},
    "four-banks-closed": {"vectors__bank_groups": 4, "vectors__page": "closed"},
    "short-vectors": {"vectors__dim": 16, "vectors__placement": "blocked"},
    "far-ahead": {"rpm__fetch_ahead": 8, "vectors__placement": "shuffled", "vectors__dim": 64},
}


def agree(path, on):
    p, work, state = ran(path, on)
    plain = Model(p, work)
    assert state.sent.tolist() == plain.sent
    assert state.done.tolist() == [plain.done[query] for query in range(len(state.done))]
    assert state.source.tolist() == [plain.source[i] for i in range(len(state.source))]
    assert state.rank_totals[:, ACTIVATES].tolist() == [len(rank.dram.acts) for rank in plain.ranks]


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_equals_the_plain_model(changes):
    agree(drawn(seed=len(changes)), device(**changes))


def test_equals_the_plain_model_through_refreshes():
    path, on = drawn(1, queries=20, hops=5, most=40), device(organisation__channels=1, organisation__dimms=1)
    assert simulate_search(path, on).as_dict()["dram"]["refreshes"] > 4
    agree(path, on)


@settings(max_examples=examples(25), deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(list(VARIANTS.values())))
def test_equals_the_plain_model_on_any_traversal(seed, changes):
    agree(drawn(seed, queries=5, hops=4, shard=60, most=10), device(**changes))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_each_timing_holds_between_commands(changes):
    p, _, state = ran(drawn(3, queries=20, most=30), device(**changes), log=200_000)
    log = state.log[: state.scalars[LOGGED]]
    assert 0 < len(log) < 200_000
    for rank in range(p.ranks):
        mine = log[log[:, 2] == rank]
        check_timings(p, mine[np.lexsort((np.arange(len(mine)), mine[:, 0]))])


def check_timings(p, log):
    """Hold every pair of a rank's commands against the least distance that JEDEC gives it."""
    last, open_row, acts = {}, {}, []
    for cycle, command, _, bank, row in log.tolist():
        group = bank % p.bank_groups

        def since(key, least, cycle=cycle, last=last):
            assert cycle - last.get(key, -(10**9)) >= least, (key, least, cycle)

        if command == ACT:
            assert bank not in open_row
            since(("PRE", bank), p.tRP)
            since(("ACT", bank), p.tRC)
            since(("ACT group", group), p.tRRD_L)
            since("ACT", p.tRRD_S)
            since("REFRESH", p.tRFC)
            assert len(acts) < 4 or cycle - acts[-4] >= p.tFAW
            acts.append(cycle)
            open_row[bank] = row
            last.update({("ACT", bank): cycle, ("ACT group", group): cycle, "ACT": cycle})
        elif command == READ:
            assert open_row.get(bank) == row
            since(("ACT", bank), p.tRCD)
            since(("READ group", group), p.tCCD_L)
            since("READ", p.tCCD_S)
            last.update({("READ", bank): cycle, ("READ group", group): cycle, "READ": cycle})
        elif command == PRE:
            assert open_row.pop(bank) == row
            since(("ACT", bank), p.tRAS)
            since(("READ", bank), p.tRTP)
            last[("PRE", bank)] = cycle
        else:
            assert command == REFRESH
            assert not open_row
            for other in range(p.banks):
                since(("PRE", other), p.tRP)
            since("REFRESH", p.tRFC)
            last["REFRESH"] = cycle


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_what_is_asked_for_moves_once_and_time_is_busy_or_idle(changes):
    path, on = drawn(5), device(**changes)
    result = simulate_search(path, on)
    p, state, work = result.numbers, result.state, result.work
    span = int(state.done.max())
    misses = int((state.source == 0).sum())
    assert state.rank_totals[:, VECTOR_BURSTS].sum() == misses * on.vector_bursts
    assert state.rank_totals[:, LIST_BURSTS].sum() == work.list_bursts.sum()
    assert state.bus_totals[:, INSTRUCTIONS].sum() == state.bus_totals[:, RESULTS].sum() == len(path.vertices)
    assert (state.bus_totals[: p.channels, TRANSFERS + SEND_QUERY] == len(path.queries)).all()
    assert (state.missing == 0).all()
    assert not state.dimm_queue[:, 2].any()
    assert not state.rank_queue[:, 4].any()
    moved = result.bytes()
    assert moved["rank_private"] + moved["cache"] >= len(path.vertices) * on.vectors.bytes
    assert moved["results"] == 8 * len(path.vertices)
    assert moved["results"] <= moved["results_on_channel"]
    assert moved["lists_on_channel"] == work.list_bursts.sum() * 64
    assert (state.bus_totals[:, BUSY] <= span).all()
    for name, share in result.utilisation().items():
        assert 0 <= share <= 1, name
    energy = dict(result.energy_nj)
    assert energy.pop("total") == pytest.approx(sum(energy.values()))
    assert energy["dram_read"] == pytest.approx(2.78 * state.rank_totals[:, [VECTOR_BURSTS, LIST_BURSTS]].sum())
    assert energy["dram_activate"] == pytest.approx(4.14 * state.rank_totals[:, ACTIVATES].sum())
    assert energy["host_link"] == pytest.approx(len(path.queries) * 8 * (on.vectors.bytes + 80) * 6e-3)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_no_run_passes_a_bound(changes):
    for seed in range(3):
        result = simulate_search(drawn(seed, queries=30), device(**changes))
        assert len(result.bounds) == 6
        assert 0 < max(bound.nearness for bound in result.bounds) <= 1, result.bounds
        assert "do not trust" not in " ".join(result.provenance.warnings)


def test_the_same_run_twice_is_equal():
    assert simulate_search(drawn(2), device()).as_dict() == simulate_search(drawn(2), device()).as_dict()


def test_a_cache_for_all_misses_each_vertex_once():
    path = drawn(4, queries=40)
    result = simulate_search(path, device(rpm__cache_bytes=1 << 30))
    assert result.cache()["misses"] == len(np.unique(path.vertices))


def test_nothing_but_the_dram_takes_time_when_all_else_takes_none():
    free = {
        "rpm__clock_mhz": 1e6, "rpm__pipeline_cycles": 0, "rpm__lookup_cycles": 0, "rpm__cache_bytes": 0,
        "tpm__clock_mhz": 1e6, "dpm__dispatch_cycles": 0, "link__latency_ns": 0, "link__gbps": 1e6,
        "vectors__refresh": False, "organisation__channels": 1, "organisation__dimms": 1, "organisation__ranks": 1,
    }  # fmt: skip
    result = simulate_search(traversal([[(None, range(500))]] * 8, 500), device(**free))
    assert result.bound == "rank DRAM"
    assert result.bounds[0].nearness > 0.99


def test_more_ranks_are_never_slower():
    path = drawn(6, queries=64, hops=12, shard=4000, most=40)
    times = [
        simulate_search(path, device(organisation__dimms=dimms, organisation__ranks=ranks, rpm__cache_bytes=0)).time_us
        for dimms, ranks in ((1, 1), (1, 2), (2, 2), (4, 2))
    ]
    for fewer, more in itertools.pairwise(times):
        assert more <= 1.02 * fewer
    assert times[-1] < 0.8 * times[0]


def test_compression_and_two_phases_relieve_the_channel():
    path = drawn(7, queries=64, hops=12, shard=4000, most=40)
    sent = {
        name: simulate_search(path, device(vectors__dim=128, rpm__cache_bytes=0, **changes)).time_us
        for name, changes in {
            "both": {},
            "one phase": {"channel__two_phase": False},
            "none": {"channel__compression": False},
        }.items()
    }
    assert sent["both"] <= 1.02 * sent["one phase"]
    assert sent["one phase"] < sent["none"]


def test_uncompressed_commands_bound_the_channel():
    # 48 reads and two rows a vector, and four ranks behind one set of command pins: 208 cycles against 192
    path = traversal([[(None, range(800))]] * 8, 800)
    result = simulate_search(
        path, device(channel__compression=False, rpm__cache_bytes=0, vectors__refresh=False, organisation__dimms=2)
    )
    assert result.bound == "channel bus"
    limits = {bound.name: bound.limit for bound in result.bounds}
    assert limits["channel bus"] / limits["rank DRAM"] == pytest.approx(208 / 192, rel=0.01)
    assert result.bounds[0].nearness > 0.9
