"""Events: the AccelDIMM's search as a compiled event model. Times are picoseconds, DRAM commands fall on its clock.

A query's hop goes round once: the expanded vertex's list is read from its rank and crosses the channel (LIST), a TPM
lane looks its ids up in the visited list (FILTERED), instructions cross the channels, each rank serves its own in order
(RANK), distances wait in the DIMM's buffer (RESULT) until a burst carries up to eight to the TPM, whose lane sorts them
in; after the last the next vertex is known (NEXT). Buses serve in order of arrival; a DIMM waits there with at most one
burst of distances. A rank serves the TPM's list reads first, and looks one vector ahead: the next one's rows are opened
while this one streams. Events of one time happen in the order in which they were made.
"""

from typing import Any

from pimsim.compiled import fingerprint, kernel
from pimsim.dimm_pim import bank_state, state, vertex_cache
from pimsim.dimm_pim.bank_state import read_list, read_vector
from pimsim.dimm_pim.state import (
    ACTIVE,
    ACTIVE_QUERIES,
    ARRIVED,
    BUS,
    BUSY,
    COMPUTING,
    DEEPEST,
    DONE,
    EVENTS,
    FILTERED,
    FINISHED,
    INSTRUCTIONS,
    LAST_WAITING,
    LINK_FREE,
    LIST,
    MISS,
    NEVER,
    NEXT,
    ORDER,
    RANK,
    RESULT,
    RESULTS,
    SEND_INSTRUCTIONS,
    SEND_LIST,
    SEND_QUERY,
    SEND_RESULTS,
    SENT,
    SIZE,
    SWITCHING,
    TRANSFERS,
    UPLINK_FREE,
    WAITING,
    ParametersStruct,
    StateStruct,
    WorkStruct,
)
from pimsim.dimm_pim.vertex_cache import look_up, merge


@kernel
def _push(s: Any, time: Any, event: Any, argument: Any) -> None:
    """Add an event to the heap, behind those of the same time."""
    heap, at = s.heap, s.scalars[SIZE]
    order = s.scalars[ORDER]
    s.scalars[SIZE] += 1
    s.scalars[ORDER] += 1
    while at > 0:
        above = (at - 1) >> 1
        if heap[above, 0] < time or (heap[above, 0] == time and heap[above, 1] < order):
            break
        for field in range(4):
            heap[at, field] = heap[above, field]
        at = above
    heap[at, 0], heap[at, 1], heap[at, 2], heap[at, 3] = time, order, event, argument


@kernel
def _pop(s: Any) -> Any:
    heap = s.heap
    time, event, argument = heap[0, 0], heap[0, 2], heap[0, 3]
    s.scalars[SIZE] -= 1
    size = s.scalars[SIZE]
    moved, order = heap[size, 0], heap[size, 1]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        other = below + 1
        if other < size and (
            heap[other, 0] < heap[below, 0] or (heap[other, 0] == heap[below, 0] and heap[other, 1] < heap[below, 1])
        ):
            below = other
        if moved < heap[below, 0] or (moved == heap[below, 0] and order < heap[below, 1]):
            break
        for field in range(4):
            heap[at, field] = heap[below, field]
        at = below
    if at != size:
        for field in range(4):
            heap[at, field] = heap[size, field]
    return time, event, argument


# the host and the TPM


@kernel
def _send(p: Any, s: Any, now: Any, most: Any) -> None:
    """The host sends the next queries, one after another over the link."""
    for query in range(s.scalars[SENT], min(s.scalars[SENT] + most, s.sent.shape[0])):
        s.sent[query] = now
        s.scalars[LINK_FREE] = max(s.scalars[LINK_FREE], now) + p.query_link_ps
        _push(s, s.scalars[LINK_FREE] + p.latency_ps, ARRIVED, query)
        s.scalars[SENT] += 1


@kernel
def _arrived(p: Any, w: Any, s: Any, now: Any, query: Any) -> None:
    if s.scalars[ACTIVE_QUERIES] < p.in_flight:
        _begin(p, w, s, now, query)
        return
    s.next_query[query] = -1
    if s.scalars[WAITING] < 0:
        s.scalars[WAITING] = query
    else:
        s.next_query[s.scalars[LAST_WAITING]] = query
    s.scalars[LAST_WAITING] = query


@kernel
def _begin(p: Any, w: Any, s: Any, now: Any, query: Any) -> None:
    """Load the query into the registers of all ranks, a broadcast on each channel, and begin its first hop."""
    s.scalars[ACTIVE_QUERIES] += 1
    s.begun[query] = now
    s.hop[query] = w.first_hop[query]
    for channel in range(p.channels):
        _submit(p, w, s, now, channel, SEND_QUERY, query)
    _begin_hop(p, w, s, now, query)


@kernel
def _begin_hop(p: Any, w: Any, s: Any, now: Any, query: Any) -> None:
    hop = s.hop[query]
    rank = w.list_rank[hop]
    if rank < 0:
        _send_instructions(p, w, s, now, query)
        return
    s.next_query[query] = -1
    if s.rank_queue[rank, 2] < 0:
        s.rank_queue[rank, 2] = query
    else:
        s.next_query[s.rank_queue[rank, 3]] = query
    s.rank_queue[rank, 3] = query
    _wake(s, rank, now)


@kernel
def _lane(p: Any, s: Any, now: Any, query: Any, duration: Any) -> Any:
    """Occupy the lane of a query; returns when it is done."""
    lane = query % p.lanes
    s.lane_free[lane] = max(s.lane_free[lane], now) + duration
    s.lane_busy[lane] += duration
    return s.lane_free[lane]


@kernel
def _send_instructions(p: Any, w: Any, s: Any, now: Any, query: Any) -> None:
    first, last = w.first_vector[s.hop[query]], w.first_vector[s.hop[query] + 1]
    s.missing[query] = last - first
    if first == last:
        _push(s, _lane(p, s, now, query, p.tpm_ps), NEXT, query)
    for channel in range(p.channels):
        for at in range(first, last):
            if w.rank[at] % p.channels == channel:
                bus = channel if p.instructions_on_data else p.channels + channel
                _submit(p, w, s, now, bus, SEND_INSTRUCTIONS, query)
                break


@kernel
def _search_ends(p: Any, w: Any, s: Any, now: Any, query: Any) -> None:
    s.searched[query] = now
    merge(p, s, query)
    s.scalars[UPLINK_FREE] = max(s.scalars[UPLINK_FREE], now) + p.result_link_ps
    _push(s, s.scalars[UPLINK_FREE] + p.latency_ps, DONE, query)
    s.scalars[ACTIVE_QUERIES] -= 1
    waiting = s.scalars[WAITING]
    if waiting >= 0:
        s.scalars[WAITING] = s.next_query[waiting]
        _begin(p, w, s, now, waiting)


# channels


@kernel
def _submit(p: Any, w: Any, s: Any, now: Any, bus: Any, kind: Any, argument: Any) -> None:
    """Put a transfer at the end of a bus's queue; it starts at once if the bus is free."""
    at = (s.bus[bus, 0] + s.bus[bus, 1]) % s.bus_ring.shape[1]
    s.bus_ring[bus, at, 0], s.bus_ring[bus, at, 1] = kind, argument
    s.bus[bus, 1] += 1
    if not s.bus[bus, 2]:
        _bus_starts(p, w, s, now, bus)


@kernel
def _bus_starts(p: Any, w: Any, s: Any, now: Any, bus: Any) -> None:
    first = s.bus[bus, 0]
    kind, argument = s.bus_ring[bus, first, 0], s.bus_ring[bus, first, 1]
    s.bus[bus, 0] = (first + 1) % s.bus_ring.shape[1]
    s.bus[bus, 1] -= 1
    s.bus[bus, 2], s.bus[bus, 4], s.bus[bus, 5] = 1, kind, argument
    source = -1  # the TPM; otherwise a DIMM
    if kind == SEND_LIST:
        source = w.list_rank[s.hop[argument]] % p.dimms
    elif kind == SEND_RESULTS:
        source = argument
    start = -(-now // p.tck_ps)
    if bus < p.channels and s.bus[bus, 3] != source and s.bus[bus, 3] != -2:
        start += p.tRTRS
        s.bus_totals[bus, SWITCHING] += p.tRTRS * p.tck_ps
    s.bus[bus, 3] = source
    cycles = p.tBL
    if kind == SEND_QUERY:
        cycles = p.query_cycles
    elif kind == SEND_LIST:
        cycles = w.list_bursts[s.hop[argument]] * p.tBL
    elif kind == SEND_RESULTS:
        s.bus[bus, 6] = min(s.dimm_queue[argument, 2], p.results_per_burst)
    elif kind == SEND_INSTRUCTIONS:
        cycles = _deliver_instructions(p, w, s, start, bus % p.channels, argument)
        s.bus_totals[bus, INSTRUCTIONS] += cycles // p.instruction_cycles
    s.bus_totals[bus, TRANSFERS + kind] += 1
    end = (start + cycles) * p.tck_ps
    s.bus_totals[bus, BUSY] += end - now
    _push(s, end, BUS, bus)


@kernel
def _bus_ends(p: Any, w: Any, s: Any, now: Any, bus: Any) -> None:
    kind, argument = s.bus[bus, 4], s.bus[bus, 5]
    s.bus[bus, 2] = 0
    if kind == SEND_LIST:
        cycles = -(-w.list_ids[s.hop[argument]] // p.lookups_per_cycle)
        _push(s, _lane(p, s, now, argument, cycles * p.tpm_ps), FILTERED, argument)
    elif kind == SEND_RESULTS:
        _deliver_results(p, w, s, now, bus, argument)
    if s.bus[bus, 1] and not s.bus[bus, 2]:
        _bus_starts(p, w, s, now, bus)


@kernel
def _deliver_instructions(p: Any, w: Any, s: Any, start: Any, channel: Any, query: Any) -> Any:
    """Queue a hop's vectors at the ranks of a channel as their instructions come in; returns the cycles that takes."""
    cycles = 0
    for at in range(w.first_vector[s.hop[query]], w.first_vector[s.hop[query] + 1]):
        rank = w.rank[at]
        if rank % p.channels != channel:
            continue
        cycles += p.instruction_cycles
        s.arrival[at] = (start + cycles) * p.tck_ps + p.dispatch_ps
        s.next_vector[at] = -1
        if s.rank_queue[rank, 0] < 0:
            s.rank_queue[rank, 0] = at
        else:
            s.next_vector[s.rank_queue[rank, 1]] = at
        s.rank_queue[rank, 1] = at
        s.rank_queue[rank, 4] += 1
        s.rank_totals[rank, DEEPEST] = max(s.rank_totals[rank, DEEPEST], s.rank_queue[rank, 4])
        _wake(s, rank, s.arrival[at])
    return cycles


@kernel
def _result(p: Any, w: Any, s: Any, now: Any, at: Any) -> None:
    """A distance comes into its DIMM's buffer."""
    dimm = w.rank[at] % p.dimms
    s.next_vector[at] = -1
    if s.dimm_queue[dimm, 0] < 0:
        s.dimm_queue[dimm, 0] = at
    else:
        s.next_vector[s.dimm_queue[dimm, 1]] = at
    s.dimm_queue[dimm, 1] = at
    s.dimm_queue[dimm, 2] += 1
    s.most_results[dimm] = max(s.most_results[dimm], s.dimm_queue[dimm, 2])
    if not s.dimm_queue[dimm, 3]:
        s.dimm_queue[dimm, 3] = 1
        _submit(p, w, s, now, dimm % p.channels, SEND_RESULTS, dimm)


@kernel
def _deliver_results(p: Any, w: Any, s: Any, now: Any, bus: Any, dimm: Any) -> None:
    """A burst of distances reaches the TPM; the DIMM queues again behind the others if it has more."""
    count = s.bus[bus, 6]
    s.bus_totals[bus, RESULTS] += count
    s.dimm_queue[dimm, 2] -= count
    for _ in range(count):
        at = s.dimm_queue[dimm, 0]
        s.dimm_queue[dimm, 0] = s.next_vector[at]
        query = s.query_of[at]
        s.missing[query] -= 1
        last = s.missing[query] == 0
        end = _lane(p, s, now, query, p.insert_ps + (p.tpm_ps if last else 0))
        if last:
            _push(s, end, NEXT, query)
    s.dimm_queue[dimm, 3] = 0
    if s.dimm_queue[dimm, 2]:
        s.dimm_queue[dimm, 3] = 1
        _submit(p, w, s, now, bus, SEND_RESULTS, dimm)


# ranks


@kernel
def _wake(s: Any, rank: Any, time: Any) -> None:
    """Have the rank decide at that time, or as soon after as it can, unless it decides before anyway."""
    time = max(time, s.rank_ready[rank, 0])
    if time < s.rank_at[rank]:
        s.rank_at[rank] = time
        _push(s, time, RANK, rank)


@kernel
def _decide(p: Any, w: Any, s: Any, now: Any, rank: Any) -> None:
    """Begin the next list or vector that is there."""
    if s.rank_at[rank] != now:
        return  # it was woken earlier, and this event is what is left
    s.rank_at[rank] = NEVER
    queue = s.rank_queue[rank]
    end = next_from = now
    if queue[2] >= 0:
        query = queue[2]
        queue[2] = s.next_query[query]
        bursts = w.list_bursts[s.hop[query]]
        _, last = read_list(p, s, now, rank, w.list_slot[s.hop[query]], bursts)
        end = (last + p.tCL + p.tBL) * p.tck_ps
        next_from = end - p.lead_ps
        _push(s, end - bursts * p.tBL * p.tck_ps, LIST, query)  # the channel may send while the rank reads
    elif queue[0] >= 0 and s.arrival[queue[0]] <= now:
        at = queue[0]
        queue[0] = s.next_vector[at]
        queue[4] -= 1
        s.found[at] = look_up(p, s, rank, w.vertex[at], s.query_of[at])
        begin, least = now + p.lookup_ps, 0
        if s.found[at] == MISS:
            first, last = read_vector(p, s, begin, rank, w.slot[at])
            begin, least = (first + p.tCL + p.tBL) * p.tck_ps, (last + p.tCL + p.tBL) * p.tck_ps
        # the next is begun when the reads leave room and a place is free: its turn's last holder is nearly computed
        next_from = begin if s.found[at] != MISS else least - p.lead_ps
        # the unit is faster than the rank: it waits for a miss's last burst
        end = max(max(begin, s.rank_ready[rank, 1]) + p.compute_ps, least)
        s.rank_ready[rank, 1] = end
        s.unit_ends[rank, queue[5] % p.fetch_ahead] = end
        queue[5] += 1
        next_from = max(next_from, s.unit_ends[rank, queue[5] % p.fetch_ahead] - p.lead_ps)
        s.rank_totals[rank, COMPUTING] += p.compute_ps
        _push(s, end + p.pipeline_ps, RESULT, at)
    s.rank_totals[rank, ACTIVE] += max(0, end - max(now, s.rank_ready[rank, 2]))
    s.rank_ready[rank, 2] = max(s.rank_ready[rank, 2], end)
    s.rank_ready[rank, 0] = max(now, next_from)
    if queue[2] >= 0:
        _wake(s, rank, now)
    elif queue[0] >= 0:
        _wake(s, rank, s.arrival[queue[0]])


def _search(sources: int) -> Any:
    """The kernel that searches all queries of a work and leaves what happened in the state.

    It is compiled anew when `sources` changes, which its code on disk is kept by.
    """

    @kernel
    def run(parameters: Any, work: Any, state: Any) -> None:
        if sources < 0:
            return
        p, w, s = ParametersStruct(*parameters), WorkStruct(*work), StateStruct(*state)
        queries = w.first_hop.shape[0] - 1
        for query in range(queries):
            for at in range(w.first_vector[w.first_hop[query]], w.first_vector[w.first_hop[query + 1]]):
                s.query_of[at] = query
        _send(p, s, 0, p.batch)
        while s.scalars[SIZE]:
            now, event, argument = _pop(s)
            s.scalars[EVENTS] += 1
            if event == RANK:
                _decide(p, w, s, now, argument)
            elif event == RESULT:
                _result(p, w, s, now, argument)
            elif event == BUS:
                _bus_ends(p, w, s, now, argument)
            elif event == NEXT:
                s.hop[argument] += 1
                if s.hop[argument] < w.first_hop[argument + 1]:
                    _begin_hop(p, w, s, now, argument)
                else:
                    _search_ends(p, w, s, now, argument)
            elif event == FILTERED:
                _send_instructions(p, w, s, now, argument)
            elif event == LIST:
                _submit(p, w, s, now, w.list_rank[s.hop[argument]] % p.channels, SEND_LIST, argument)
            elif event == ARRIVED:
                _arrived(p, w, s, now, argument)
            else:
                s.done[argument] = now
                s.scalars[FINISHED] += 1
                if p.continuous:
                    _send(p, s, now, 1)
                elif s.scalars[FINISHED] == s.scalars[SENT]:
                    _send(p, s, now, p.batch)

    return run


run = _search(fingerprint(bank_state, state, vertex_cache))
