"""State: what the event model works on: the device as numbers, the placed traversal, and all that changes.

Python hands the three over as tuples. In compiled code each becomes a struct of the same fields.
"""

from typing import NamedTuple

import numpy as np

from pimsim.compiled import struct

ARRIVED, FILTERED, NEXT, DONE, RANK, RESULT, LIST, BUS = range(8)  # events
SEND_QUERY, SEND_LIST, SEND_INSTRUCTIONS, SEND_RESULTS = range(4)  # what a bus carries
MISS, LOCAL, GLOBAL = 0, 1, 2  # where a vector was found, and the parts of the cache
ACT, PRE, READ, REFRESH = range(4)  # commands of the log
NEVER = 1 << 62
# totals of a bus: times it is busy, of which changing over; then transfers of each kind, and instructions and results
BUSY, SWITCHING, TRANSFERS, INSTRUCTIONS, RESULTS = 0, 1, 2, 6, 7
BUS_TOTALS = 8
# totals of a rank: bursts and commands, then times
VECTOR_BURSTS, LIST_BURSTS, ACTIVATES, REFRESHES, ROW_HITS, ACTIVE, COMPUTING, DEEPEST = range(8)
RANK_TOTALS = 8


class Parameters(NamedTuple):
    """The device as whole numbers; cycles are the memory's, `_ps` are picoseconds."""

    channels: int
    dimms: int  # of all channels; DIMM d is on channel d modulo channels
    ranks: int  # of all; rank r is on DIMM r modulo dimms
    tck_ps: int
    bank_groups: int
    banks: int  # a rank; bank b is of group b modulo bank_groups
    tRCD: int
    tRP: int
    tRAS: int
    tRC: int
    tCL: int
    tBL: int
    tCCD_S: int
    tCCD_L: int
    tRRD_S: int
    tRRD_L: int
    tFAW: int
    tRTP: int
    tRTRS: int
    tRFC: int
    tREFI: int  # 0: never
    closed_page: int
    stripes: int  # bank groups over which a vector is spread
    vector_bursts: int
    pieces_per_row: int  # stripes that a row holds
    list_rows: int  # the first row with lists
    lists_per_row: int
    lead_ps: int  # before the end of a vector the next is begun
    compute_ps: int  # a vector's in the unit
    pipeline_ps: int  # from the last element to the distance
    lookup_ps: int  # the cache's
    fetch_ahead: int  # vectors between the cache or the DRAM and the end of the unit
    local_vectors: int
    global_vectors: int
    query_cycles: int  # of the bus, as all below
    instruction_cycles: int
    instructions_on_data: int  # two-phase: both kinds of pins; otherwise the command pins alone
    dispatch_ps: int
    results_per_burst: int
    lanes: int
    tpm_ps: int  # a cycle
    lookups_per_cycle: int
    insert_ps: int
    in_flight: int
    batch: int
    continuous: int
    query_link_ps: int
    result_link_ps: int
    latency_ps: int


class Work(NamedTuple):
    """The traversal, placed: int64 arrays over queries, hops and vectors."""

    first_hop: np.ndarray
    list_rank: np.ndarray  # -1: the hop has none
    list_slot: np.ndarray  # its place in the rank
    list_bursts: np.ndarray
    list_ids: np.ndarray
    first_vector: np.ndarray
    vertex: np.ndarray  # numbered without gaps: 0 … distinct vertices - 1
    rank: np.ndarray
    slot: np.ndarray


class State(NamedTuple):
    """All that changes. Queues are linked lists through `next_vector` and `next_query`; -1 ends them."""

    heap: np.ndarray  # [capacity, 4]: time, order, event, argument
    scalars: np.ndarray  # below
    sent: np.ndarray  # [queries], when the host sent it; so the next
    begun: np.ndarray
    searched: np.ndarray
    done: np.ndarray
    hop: np.ndarray  # [queries], the one it is in
    missing: np.ndarray  # [queries], distances it waits for
    next_query: np.ndarray
    query_of: np.ndarray  # [vectors]
    next_vector: np.ndarray
    arrival: np.ndarray  # [vectors], at the rank
    source: np.ndarray  # [vectors], MISS, LOCAL or GLOBAL
    rank_queue: np.ndarray  # [ranks, 6]: first and last vector, first and last query with a list, depth, served
    rank_at: np.ndarray  # [ranks], when it decides next
    rank_ready: np.ndarray  # [ranks, 3]: may decide, unit free, active until
    unit_ends: np.ndarray  # [ranks, fetch_ahead], of the last vectors, in turn
    rank_totals: np.ndarray  # [ranks, RANK_TOTALS]
    bank: np.ndarray  # [ranks, banks, 4]: open row or -1, may be precharged, activated, read
    group: np.ndarray  # [ranks, bank_groups, 2]: last ACT, last READ
    rank_dram: np.ndarray  # [ranks, 8]: last four ACTs, whose turn, last ACT, last READ, next refresh
    dimm_queue: np.ndarray  # [dimms, 4]: first and last result, how many, whether it waits at the bus
    most_results: np.ndarray  # [dimms]
    bus_ring: np.ndarray  # [buses, capacity, 2]: kind and argument
    bus: (
        np.ndarray
    )  # [buses, 7]: first of the ring, how many, busy, last source; what it carries: kind, argument, results
    bus_totals: np.ndarray  # [buses, BUS_TOTALS]
    lane_free: np.ndarray
    lane_busy: np.ndarray
    newer: (
        np.ndarray
    )  # the cache: [distinct vertices + 2 ranks], neighbours in a ring of recency, which begins at a rank's part
    older: np.ndarray
    part: np.ndarray  # [distinct vertices], MISS: not cached
    owner: np.ndarray  # [distinct vertices], the query that brought it
    cached: np.ndarray  # [ranks, 2], how many of each part
    log: np.ndarray  # [capacity, 5]: cycle, command, rank, bank, row


SIZE, ORDER, SENT, LINK_FREE, UPLINK_FREE, ACTIVE_QUERIES, WAITING, LAST_WAITING, FINISHED, LOGGED, EVENTS = range(11)
SCALARS = 11


ParametersStruct, WorkStruct, StateStruct = struct(Parameters), struct(Work), struct(State)
