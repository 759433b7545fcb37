"""Events: the AccelDIMM's search as a compiled event model. Times are picoseconds, DRAM commands fall on its clock.

A query's hop goes round once: the expanded vertex's list is read from its rank and crosses the channel (LIST), a TPM
lane looks its ids up in the visited list (FILTERED), instructions cross the channels, each rank serves its own in order
(RANK), distances wait in the DIMM's buffer (RESULT) until a burst carries up to eight to the TPM, whose lane sorts them
in; after the last the next vertex is known (NEXT). Buses serve in order of arrival; a DIMM waits there with at most one
burst of distances. A rank serves the TPM's list reads first, and looks one vector ahead: the next one's rows are opened
while this one streams. Events of one time happen in the order in which they were made.
"""

from typing import Any

from pimsim.compiled import inlined, kernel, part
from pimsim.dimm_pim.heap import pop, push
from pimsim.dimm_pim.ranks import decide, wake
from pimsim.dimm_pim.state import (
    ACTIVE_QUERIES,
    ARRIVED,
    BUS,
    BUSY,
    DEEPEST,
    DONE,
    EVENTS,
    FILTERED,
    FINISHED,
    INSTRUCTIONS,
    LAST_WAITING,
    LINK_FREE,
    LIST,
    NEXT,
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
from pimsim.dimm_pim.vertex_cache import merge

# the host and the TPM


@part
def _send(p: Any, s: Any, now: Any, most: Any) -> None:
    """The host sends the next queries, one after another over the link."""
    for query in range(s.scalars[SENT], min(s.scalars[SENT] + most, s.sent.shape[0])):
        s.sent[query] = now
        s.scalars[LINK_FREE] = max(s.scalars[LINK_FREE], now) + p.query_link_ps
        push(s, s.scalars[LINK_FREE] + p.latency_ps, ARRIVED, query)
        s.scalars[SENT] += 1


@part
def _arrived(p: Any, w: Any, s: Any, now: Any, query: Any) -> None:
    """A query arrives: begin its search, or let it wait for a place among the running ones."""
    if s.scalars[ACTIVE_QUERIES] < p.in_flight:
        _begin(p, w, s, now, query)
        return
    s.next_query[query] = -1
    if s.scalars[WAITING] < 0:
        s.scalars[WAITING] = query
    else:
        s.next_query[s.scalars[LAST_WAITING]] = query
    s.scalars[LAST_WAITING] = query


@part
def _begin(p: Any, w: Any, s: Any, now: Any, query: Any) -> None:
    """Load the query into the registers of all ranks, a broadcast on each channel, and begin its first hop."""
    s.scalars[ACTIVE_QUERIES] += 1
    s.begun[query] = now
    s.hop[query] = w.first_hop[query]
    for channel in range(p.channels):
        _submit(p, w, s, now, channel, SEND_QUERY, query)
    _begin_hop(p, w, s, now, query)


@part
def _begin_hop(p: Any, w: Any, s: Any, now: Any, query: Any) -> None:
    """Begin a query's hop with the reading of its list, if it has one."""
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
    wake(s, rank, now)


@part
def _lane(p: Any, s: Any, now: Any, query: Any, duration: Any) -> Any:
    """Occupy the lane of a query; returns when it is done."""
    lane = query % p.lanes
    s.lane_free[lane] = max(s.lane_free[lane], now) + duration
    s.lane_busy[lane] += duration
    return s.lane_free[lane]


@part
def _send_instructions(p: Any, w: Any, s: Any, now: Any, query: Any) -> None:
    """Send the instructions of a hop's vectors over each channel that has any."""
    first, last = w.first_vector[s.hop[query]], w.first_vector[s.hop[query] + 1]
    s.missing[query] = last - first
    if first == last:
        push(s, _lane(p, s, now, query, p.tpm_ps), NEXT, query)
    for channel in range(p.channels):
        for vector in range(first, last):
            if w.rank[vector] % p.channels == channel:
                bus = channel if p.instructions_on_data else p.channels + channel
                _submit(p, w, s, now, bus, SEND_INSTRUCTIONS, query)
                break


@part
def _search_ends(p: Any, w: Any, s: Any, now: Any, query: Any) -> None:
    """Send a query's result to the host, and begin the search of one that waits."""
    s.searched[query] = now
    merge(p, s, query)
    s.scalars[UPLINK_FREE] = max(s.scalars[UPLINK_FREE], now) + p.result_link_ps
    push(s, s.scalars[UPLINK_FREE] + p.latency_ps, DONE, query)
    s.scalars[ACTIVE_QUERIES] -= 1
    waiting = s.scalars[WAITING]
    if waiting >= 0:
        s.scalars[WAITING] = s.next_query[waiting]
        _begin(p, w, s, now, waiting)


# channels


@part
def _submit(p: Any, w: Any, s: Any, now: Any, bus: Any, kind: Any, argument: Any) -> None:
    """Put a transfer at the end of a bus's queue; it starts at once if the bus is free."""
    place = (s.bus[bus, 0] + s.bus[bus, 1]) % s.bus_ring.shape[1]
    s.bus_ring[bus, place, 0], s.bus_ring[bus, place, 1] = kind, argument
    s.bus[bus, 1] += 1
    if not s.bus[bus, 2]:
        _bus_starts(p, w, s, now, bus)


@part
def _bus_starts(p: Any, w: Any, s: Any, now: Any, bus: Any) -> None:
    """Begin the first transfer of a bus's queue."""
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
    push(s, end, BUS, bus)


@part
def _bus_ends(p: Any, w: Any, s: Any, now: Any, bus: Any) -> None:
    """Deliver what a bus carried, and begin its next transfer."""
    kind, argument = s.bus[bus, 4], s.bus[bus, 5]
    s.bus[bus, 2] = 0
    if kind == SEND_LIST:
        cycles = -(-w.list_ids[s.hop[argument]] // p.lookups_per_cycle)
        push(s, _lane(p, s, now, argument, cycles * p.tpm_ps), FILTERED, argument)
    elif kind == SEND_RESULTS:
        _deliver_results(p, w, s, now, bus, argument)
    if s.bus[bus, 1] and not s.bus[bus, 2]:
        _bus_starts(p, w, s, now, bus)


@part
def _deliver_instructions(p: Any, w: Any, s: Any, start: Any, channel: Any, query: Any) -> Any:
    """Queue a hop's vectors at the ranks of a channel as their instructions come in; returns the cycles that takes."""
    cycles = 0
    for vector in range(w.first_vector[s.hop[query]], w.first_vector[s.hop[query] + 1]):
        rank = w.rank[vector]
        if rank % p.channels != channel:
            continue
        cycles += p.instruction_cycles
        s.arrival[vector] = (start + cycles) * p.tck_ps + p.dispatch_ps
        s.next_vector[vector] = -1
        if s.rank_queue[rank, 0] < 0:
            s.rank_queue[rank, 0] = vector
        else:
            s.next_vector[s.rank_queue[rank, 1]] = vector
        s.rank_queue[rank, 1] = vector
        s.rank_queue[rank, 4] += 1
        s.rank_totals[rank, DEEPEST] = max(s.rank_totals[rank, DEEPEST], s.rank_queue[rank, 4])
        wake(s, rank, s.arrival[vector])
    return cycles


@part
def _result(p: Any, w: Any, s: Any, now: Any, vector: Any) -> None:
    """A distance comes into its DIMM's buffer."""
    dimm = w.rank[vector] % p.dimms
    s.next_vector[vector] = -1
    if s.dimm_queue[dimm, 0] < 0:
        s.dimm_queue[dimm, 0] = vector
    else:
        s.next_vector[s.dimm_queue[dimm, 1]] = vector
    s.dimm_queue[dimm, 1] = vector
    s.dimm_queue[dimm, 2] += 1
    s.most_results[dimm] = max(s.most_results[dimm], s.dimm_queue[dimm, 2])
    if not s.dimm_queue[dimm, 3]:
        s.dimm_queue[dimm, 3] = 1
        _submit(p, w, s, now, dimm % p.channels, SEND_RESULTS, dimm)


@part
def _deliver_results(p: Any, w: Any, s: Any, now: Any, bus: Any, dimm: Any) -> None:
    """A burst of distances reaches the TPM; the DIMM queues again behind the others if it has more."""
    count = s.bus[bus, 6]
    s.bus_totals[bus, RESULTS] += count
    s.dimm_queue[dimm, 2] -= count
    for _ in range(count):
        vector = s.dimm_queue[dimm, 0]
        s.dimm_queue[dimm, 0] = s.next_vector[vector]
        query = s.query_of[vector]
        s.missing[query] -= 1
        last = s.missing[query] == 0
        end = _lane(p, s, now, query, p.insert_ps + (p.tpm_ps if last else 0))
        if last:
            push(s, end, NEXT, query)
    s.dimm_queue[dimm, 3] = 0
    if s.dimm_queue[dimm, 2]:
        s.dimm_queue[dimm, 3] = 1
        _submit(p, w, s, now, bus, SEND_RESULTS, dimm)


@kernel
def run(parameters: Any, work: Any, state: Any) -> None:
    """Search all queries of a `Work`; what happened is in the `State` then."""
    p, w, s = ParametersStruct(*parameters), WorkStruct(*work), StateStruct(*state)
    for query in range(w.first_hop.shape[0] - 1):
        for vector in range(w.first_vector[w.first_hop[query]], w.first_vector[w.first_hop[query + 1]]):
            s.query_of[vector] = query
    _send(p, s, 0, p.batch)
    while s.scalars[SIZE]:
        now, event, argument = pop(s)
        s.scalars[EVENTS] += 1
        _happen(p, w, s, now, event, argument)


@inlined
def _happen(p: Any, w: Any, s: Any, now: Any, event: Any, argument: Any) -> None:
    """Let an event happen."""
    if event == RANK:
        decide(p, w, s, now, argument)
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
