"""Ranks: what each rank reads next, and when its unit has computed the distances; compiled."""

from typing import Any

from pimsim.compiled import part
from pimsim.dimm_pim.bank_state import read_list, read_vector
from pimsim.dimm_pim.heap import push
from pimsim.dimm_pim.state import ACTIVE, COMPUTING, LIST, MISS, NEVER, RANK, RESULT
from pimsim.dimm_pim.vertex_cache import look_up


@part
def wake(s: Any, rank: Any, time: Any) -> None:
    """Make the rank decide at that time, or as soon after it as it can, unless it decides earlier anyway."""
    time = max(time, s.rank_ready[rank, 0])
    if time < s.rank_at[rank]:
        s.rank_at[rank] = time
        push(s, time, RANK, rank)


@part
def decide(p: Any, w: Any, s: Any, now: Any, rank: Any) -> None:
    """Make the rank begin the next list or vector that has arrived."""
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
        push(s, end - bursts * p.tBL * p.tck_ps, LIST, query)  # the channel may send while the rank reads
    elif queue[0] >= 0 and s.arrival[queue[0]] <= now:
        vector = queue[0]
        queue[0] = s.next_vector[vector]
        queue[4] -= 1
        s.source[vector] = look_up(p, s, rank, w.vertex[vector], s.query_of[vector])
        begin, least = now + p.lookup_ps, 0
        if s.source[vector] == MISS:
            first, last = read_vector(p, s, begin, rank, w.slot[vector])
            begin, least = (first + p.tCL + p.tBL) * p.tck_ps, (last + p.tCL + p.tBL) * p.tck_ps
        # the next is begun when the reads leave room and a place is free: its turn's last holder is nearly computed
        next_from = begin if s.source[vector] != MISS else least - p.lead_ps
        # the unit is faster than the rank: it waits for a miss's last burst
        end = max(max(begin, s.rank_ready[rank, 1]) + p.compute_ps, least)
        s.rank_ready[rank, 1] = end
        s.unit_ends[rank, queue[5] % p.fetch_ahead] = end
        queue[5] += 1
        next_from = max(next_from, s.unit_ends[rank, queue[5] % p.fetch_ahead] - p.lead_ps)
        s.rank_totals[rank, COMPUTING] += p.compute_ps
        push(s, end + p.pipeline_ps, RESULT, vector)
    s.rank_totals[rank, ACTIVE] += max(0, end - max(now, s.rank_ready[rank, 2]))
    s.rank_ready[rank, 2] = max(s.rank_ready[rank, 2], end)
    s.rank_ready[rank, 0] = max(now, next_from)
    if queue[2] >= 0:
        wake(s, rank, now)
    elif queue[0] >= 0:
        wake(s, rank, s.arrival[queue[0]])
