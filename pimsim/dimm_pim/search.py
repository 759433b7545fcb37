"""Search: the simulation of all queries of a traversal on an AccelDIMM."""

from __future__ import annotations

import numpy as np

from pimsim.dimm_pim import events
from pimsim.dimm_pim.device import DimmDevice
from pimsim.dimm_pim.placement import list_rows, lists_per_row, pieces_per_row, placed
from pimsim.dimm_pim.report import SearchResult
from pimsim.dimm_pim.state import BUS_TOTALS, NEVER, RANK_TOTALS, SCALARS, WAITING, Parameters, State, Work
from pimsim.dimm_pim.traversal import Traversal

LONG_AGO = -(1 << 40)  # cycles: no command before the first one holds it back


def simulate_search(traversal: Traversal, device: DimmDevice) -> SearchResult:
    """Simulate the search of all queries of a traversal. WorkloadError if the shard does not fit into the device."""
    work = placed(traversal, device)
    numbers = parameters(device, traversal.shard)
    state = run(numbers, work)
    return SearchResult(device, traversal, numbers, work, state)


def run(numbers: Parameters, work: Work, log: int = 0) -> State:
    """Simulate all queries of a `Work`; returns the final state, which has the first `log` DRAM commands."""
    state = _state(numbers, work, log)
    events.run(numbers, work, state)
    return state


def parameters(device: DimmDevice, shard: int) -> Parameters:
    """The device as the event model takes it, for a shard of `shard` vertices."""
    timing, memory = device.standard.timing, device.standard.organisation
    vectors, rpm, tpm = device.vectors, device.rpm, device.tpm
    local, whole = device.cached_vectors[0], sum(device.cached_vectors)
    lead = timing.tRP + timing.tRCD + timing.tCL + timing.tBL + (device.stripes - 1) * timing.tRRD_L
    return Parameters(
        channels=device.organisation.channels,
        dimms=device.organisation.all_dimms,
        ranks=device.organisation.all_ranks,
        tck_ps=device.tck_ps,
        bank_groups=memory.bank_groups,
        banks=memory.banks_per_rank,
        tRCD=timing.tRCD,
        tRP=timing.tRP,
        tRAS=timing.tRAS,
        tRC=timing.tRC,
        tCL=timing.tCL,
        tBL=timing.tBL,
        tCCD_S=timing.tCCD_S,
        tCCD_L=timing.tCCD_L,
        tRRD_S=timing.tRRD_S,
        tRRD_L=timing.tRRD_L,
        tFAW=timing.tFAW,
        tRTP=timing.tRTP,
        tRTRS=timing.tRTRS,
        tRFC=timing.tRFC,
        tREFI=timing.tREFI if vectors.refresh else 0,
        closed_page=int(vectors.page == "closed"),
        stripes=device.stripes,
        vector_bursts=device.vector_bursts,
        pieces_per_row=pieces_per_row(device),
        list_rows=list_rows(device, shard),
        lists_per_row=lists_per_row(device),
        lead_ps=lead * device.tck_ps,
        compute_ps=device.compute_ps,
        pipeline_ps=rpm.pipeline_cycles * device.rpm_ps,
        lookup_ps=rpm.lookup_cycles * device.rpm_ps,
        local_vectors=min(local, shard),
        global_vectors=min(whole - local, shard),
        fetch_ahead=rpm.fetch_ahead,
        query_cycles=device.vector_bursts * timing.tBL,
        instruction_cycles=device.instruction_cycles,
        instructions_on_data=int(device.instructions_on_data_pins),
        dispatch_ps=device.dpm.dispatch_cycles * device.rpm_ps,
        results_per_burst=memory.burst_bytes // device.dpm.result_bytes,
        lanes=tpm.lanes,
        tpm_ps=device.tpm_ps,
        lookups_per_cycle=tpm.visited_lookups,
        insert_ps=-(-device.graph.ef // tpm.comparators) * device.tpm_ps,
        in_flight=tpm.in_flight,
        batch=device.workload.batch,
        continuous=int(device.workload.admission == "continuous"),
        query_link_ps=round(vectors.bytes * 1000 / device.link.gbps),
        result_link_ps=round(device.graph.k * device.dpm.result_bytes * 1000 / device.link.gbps),
        latency_ps=round(device.link.latency_ns * 1000),
    )


def _state(p: Parameters, work: Work, log: int) -> State:
    queries, vectors = len(work.first_hop) - 1, len(work.vertex)
    at_once = min(p.batch, queries)
    distinct = int(work.vertex.max()) + 1 if vectors else 0
    widest = int(np.diff(work.first_vector).max())
    buses = 2 * p.channels  # the second half are the command pins
    ring = np.arange(distinct + 2 * p.ranks, dtype=np.int64)
    bank = np.zeros((p.ranks, p.banks, 4), np.int64)
    bank[:, :, 0] = -1
    rank_dram = np.full((p.ranks, 8), LONG_AGO, np.int64)
    rank_dram[:, 4] = 0
    rank_dram[:, 7] = p.tREFI * (np.arange(p.ranks) + 1) // p.ranks  # refreshes take turns
    rank_queue = np.full((p.ranks, 6), -1, np.int64)
    rank_queue[:, 4:] = 0
    dimm_queue = np.zeros((p.dimms, 4), np.int64)
    dimm_queue[:, :2] = -1
    bus = np.zeros((buses, 7), np.int64)
    bus[:, 3] = -2
    scalars = np.zeros(SCALARS, np.int64)
    scalars[WAITING] = -1

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.int64)

    return State(
        # one a distance on its way, some a query, and what woke a rank earlier than planned
        heap=zeros(min(vectors, at_once * widest) * 2 + 16 * (at_once + p.ranks + buses), 4),
        scalars=scalars,
        sent=zeros(queries),
        begun=zeros(queries),
        searched=zeros(queries),
        done=zeros(queries),
        hop=zeros(queries),
        missing=zeros(queries),
        next_query=zeros(queries),
        query_of=zeros(vectors),
        next_vector=zeros(vectors),
        arrival=zeros(vectors),
        source=zeros(vectors),
        rank_queue=rank_queue,
        rank_at=np.full(p.ranks, NEVER, np.int64),
        rank_ready=zeros(p.ranks, 3),
        unit_ends=zeros(p.ranks, p.fetch_ahead),
        rank_totals=zeros(p.ranks, RANK_TOTALS),
        bank=bank,
        group=np.full((p.ranks, p.bank_groups, 2), LONG_AGO, np.int64),
        rank_dram=rank_dram,
        dimm_queue=dimm_queue,
        most_results=zeros(p.dimms),
        bus_ring=zeros(buses, 3 * at_once + p.dimms + 1, 2),
        bus=bus,
        bus_totals=zeros(buses, BUS_TOTALS),
        lane_free=zeros(p.lanes),
        lane_busy=zeros(p.lanes),
        newer=ring.copy(),
        older=ring.copy(),
        part=zeros(distinct),
        owner=zeros(distinct),
        cached=zeros(p.ranks, 2),
        log=zeros(log, 5),
    )
