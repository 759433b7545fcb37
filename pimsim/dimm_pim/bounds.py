"""Bounds: how long each part of an AccelDIMM needs at least for the work it was given, if nothing else held it back."""

from __future__ import annotations

import numpy as np

from pimsim.dimm_pim.state import (
    ACTIVATES,
    COMPUTING,
    INSTRUCTIONS,
    LIST_BURSTS,
    MISS,
    RESULTS,
    SEND_QUERY,
    TRANSFERS,
    VECTOR_BURSTS,
    Parameters,
    State,
    Work,
)
from pimsim.result import Bound


def bounds(p: Parameters, work: Work, state: State, span_ps: int) -> list[Bound]:
    """Each part's least time in µs beside the time it took, longest first; the first is the one that holds.

    A part's time is that of its busiest instance. Where vectors were found (cache or DRAM) is taken from the run.
    """
    limits = {
        "rank DRAM": _ranks(p, state),
        "distance units": int(state.rank_totals[:, COMPUTING].max()),
        "channel bus": _channels(p, work, state),
        "TPM lanes": int(state.lane_busy.max()),
        "host link": len(state.sent) * max(p.query_link_ps, p.result_link_ps) + 2 * p.latency_ps,
        "dependency of hops": _dependency(p, work, state),
    }
    all_bounds = [Bound(name, limit / 1e6, span_ps / 1e6, "us", lower_is_better=True) for name, limit in limits.items()]
    return sorted(all_bounds, key=lambda bound: -bound.limit)  # stable: equal ones keep the order above


def _ranks(p: Parameters, state: State) -> int:
    """Picoseconds of the busiest rank: its bursts back to back, or its activations as tFAW lets them come, and the
    refreshes due meanwhile.
    """
    totals = state.rank_totals
    spacing = p.tCCD_L if p.stripes == 1 and p.vector_bursts > 1 else p.tCCD_S
    stream = totals[:, VECTOR_BURSTS] * spacing + totals[:, LIST_BURSTS] * p.tBL
    cycles = int(np.maximum(stream, totals[:, ACTIVATES] * p.tFAW // 4 - p.tFAW).max())
    if p.tREFI:
        cycles += cycles // (p.tREFI - p.tRFC) * p.tRFC
    return cycles * p.tck_ps


def _channels(p: Parameters, work: Work, state: State) -> int:
    """Picoseconds of the busiest bus for what crossed it, without gaps, distances packed into full bursts."""
    totals = state.bus_totals
    lists = np.zeros(len(totals), np.int64)
    has_list = work.list_rank >= 0
    np.add.at(lists, work.list_rank[has_list] % p.channels, work.list_bursts[has_list])
    cycles = (
        totals[:, TRANSFERS + SEND_QUERY] * p.query_cycles
        + totals[:, INSTRUCTIONS] * p.instruction_cycles
        + lists * p.tBL
        + -(-totals[:, RESULTS] // p.results_per_burst) * p.tBL
    )
    return int(cycles.max()) * p.tck_ps


def _dependency(p: Parameters, work: Work, state: State) -> int:
    """Picoseconds of hops one after another: a batch takes as long as its slowest query would alone, on open rows."""
    alone = _alone(p, work, state) + p.query_link_ps + p.result_link_ps + 2 * p.latency_ps
    in_flight = min(p.in_flight, p.batch)
    if p.continuous:
        return max(int(alone.max()), int(alone.sum()) // in_flight)
    whole = 0
    for first in range(0, len(alone), p.batch):
        batch = alone[first : first + p.batch]
        whole += max(int(batch.max()), int(batch.sum()) // in_flight)
    return whole


def _alone(p: Parameters, work: Work, state: State) -> np.ndarray:
    """Picoseconds of each query's search without any other, int64 [queries]."""
    hops = len(work.list_rank)
    reading = p.tCL + (p.tRCD if p.closed_page else 0)
    hop_of = np.repeat(np.arange(hops), np.diff(work.first_vector))
    spacing = p.tCCD_L if p.stripes == 1 else p.tCCD_S
    missed = state.source == MISS
    stream = p.vector_bursts * spacing * p.tck_ps
    served = np.zeros(hops * p.ranks, np.int64)
    np.add.at(served, hop_of * p.ranks + work.rank, np.where(missed, max(stream, p.compute_ps), p.compute_ps))
    slowest = served.reshape(hops, p.ranks).max(axis=1)
    any_hit = np.zeros(hops, bool)
    any_hit[hop_of[~missed]] = True
    compared = np.diff(work.first_vector) > 0
    # a hop with hits may end with one; otherwise the first read's latency comes before the stream
    slowest += np.where(compared & ~any_hit, (reading + p.tBL - spacing) * p.tck_ps, 0)
    instructions = p.instruction_cycles * p.tck_ps + p.dispatch_ps
    distances = instructions + p.lookup_ps + slowest + p.pipeline_ps + p.tBL * p.tck_ps + p.insert_ps + p.tpm_ps
    listed = (reading + work.list_bursts * p.tBL) * p.tck_ps + -(-work.list_ids // p.lookups_per_cycle) * p.tpm_ps
    hop = np.where(work.list_rank >= 0, listed, 0) + np.where(compared, distances, p.tpm_ps)
    before = np.concatenate([[0], np.cumsum(hop)])
    return np.asarray(before[work.first_hop[1:]] - before[work.first_hop[:-1]], np.int64)
