"""Bank state: when a rank's ACT, PRE, READ and REFRESH may come, for reads in order; compiled.

Command slots are free enough not to matter: a vector of 48 bursts takes 52 of the 192 cycles it streams.
"""

from typing import Any

from pimsim.compiled import part
from pimsim.dimm_pim.state import (
    ACT,
    ACTIVATES,
    LIST_BURSTS,
    LOGGED,
    NEVER,
    PRE,
    READ,
    REFRESH,
    REFRESHES,
    ROW_HITS,
    VECTOR_BURSTS,
)


@part
def read_vector(p: Any, s: Any, now: Any, rank: Any, slot: Any) -> Any:
    """Read a vector, which is spread over banks of `stripes` bank groups; returns the cycles of its first and last
    READ.
    """
    start = _after_refreshes(p, s, -(-now // p.tck_ps), rank)
    sets = p.bank_groups // p.stripes
    place = slot // p.pieces_per_row
    bank = (place % sets) * p.stripes + (place // sets % (p.banks // p.bank_groups)) * p.bank_groups
    row = place // (p.banks // p.stripes)
    for stripe in range(p.stripes):
        _open(p, s, start, rank, bank + stripe, row)
    first, last = NEVER, 0
    for burst in range(p.vector_bursts):
        last = _read(p, s, start, rank, bank + burst % p.stripes)
        first = min(first, last)
    s.rank_totals[rank, VECTOR_BURSTS] += p.vector_bursts
    if p.closed_page:
        for stripe in range(p.stripes):
            _close(p, s, start, rank, bank + stripe)
    return first, last


@part
def read_list(p: Any, s: Any, now: Any, rank: Any, slot: Any, bursts: Any) -> Any:
    """Read a neighbour list, which lies in one row; returns the cycles of its first and last READ."""
    start = _after_refreshes(p, s, -(-now // p.tck_ps), rank)
    place = slot // p.lists_per_row
    bank = place % p.banks
    _open(p, s, start, rank, bank, p.list_rows + place // p.banks)
    first, last = NEVER, 0
    for _ in range(bursts):
        last = _read(p, s, start, rank, bank)
        first = min(first, last)
    s.rank_totals[rank, LIST_BURSTS] += bursts
    if p.closed_page:
        _close(p, s, start, rank, bank)
    return first, last


@part
def _after_refreshes(p: Any, s: Any, start: Any, rank: Any) -> Any:
    """Refresh as often as was due before reads from `start` on can stream; a refresh waits for the vector before it."""
    bank, dram = s.bank[rank], s.rank_dram[rank]
    while p.tREFI and dram[7] <= max(start, dram[6] + p.tCCD_S):
        close, begin = dram[7], dram[7]
        for number in range(p.banks):
            if bank[number, 0] >= 0:
                close = max(close, bank[number, 1])
        for number in range(p.banks):
            if bank[number, 0] >= 0:
                _log(s, close, PRE, rank, number, bank[number, 0])
                bank[number, 0] = -1
                bank[number, 2] = max(bank[number, 2], close + p.tRP)
            begin = max(begin, bank[number, 2])
        _log(s, begin, REFRESH, rank, -1, -1)
        for number in range(p.banks):
            bank[number, 2] = begin + p.tRFC
        s.rank_totals[rank, REFRESHES] += 1
        dram[7] += p.tREFI
    return start


@part
def _open(p: Any, s: Any, start: Any, rank: Any, bank: Any, row: Any) -> None:
    """Open a row, unless it is open, as early as from `start` on."""
    state, group, dram = s.bank[rank, bank], s.group[rank, bank % p.bank_groups], s.rank_dram[rank]
    if state[0] == row:
        s.rank_totals[rank, ROW_HITS] += 1
        return
    if state[0] >= 0:
        _close(p, s, start, rank, bank)
    turn = dram[4]
    cycle = max(max(start, state[2]), max(dram[5] + p.tRRD_S, max(group[0] + p.tRRD_L, dram[turn] + p.tFAW)))
    dram[turn], dram[4], dram[5], group[0] = cycle, (turn + 1) % 4, cycle, cycle
    state[0], state[1], state[2], state[3] = row, cycle + p.tRAS, cycle + p.tRC, cycle + p.tRCD
    s.rank_totals[rank, ACTIVATES] += 1
    _log(s, cycle, ACT, rank, bank, row)


@part
def _close(p: Any, s: Any, start: Any, rank: Any, bank: Any) -> None:
    state = s.bank[rank, bank]
    cycle = max(start, state[1])
    _log(s, cycle, PRE, rank, bank, state[0])
    state[0], state[2] = -1, max(state[2], cycle + p.tRP)


@part
def _read(p: Any, s: Any, start: Any, rank: Any, bank: Any) -> Any:
    state, group, dram = s.bank[rank, bank], s.group[rank, bank % p.bank_groups], s.rank_dram[rank]
    cycle = max(max(start, state[3]), max(dram[6] + p.tCCD_S, group[1] + p.tCCD_L))
    dram[6], group[1] = cycle, cycle
    state[1] = max(state[1], cycle + p.tRTP)
    _log(s, cycle, READ, rank, bank, state[0])
    return cycle


@part
def _log(s: Any, cycle: Any, command: Any, rank: Any, bank: Any, row: Any) -> None:
    line = s.scalars[LOGGED]
    if line < s.log.shape[0]:
        s.log[line, 0], s.log[line, 1], s.log[line, 2], s.log[line, 3], s.log[line, 4] = cycle, command, rank, bank, row
        s.scalars[LOGGED] += 1
