"""The kernel: one pseudo channel's controller and banks, advanced from command to command, in compiled code.

Within a cycle: (1) a request enters, (2) refreshes fall due, (3) one command is sent: the one that can be sent first.
Of those that can be sent in the same cycle a refresh and its precharge come first, then the column of a request for
which a row was opened, then any other, the oldest request first in each. Where rows and columns have command buses of
their own (HBM), a second command of the other kind may follow in the same cycle.

Each bank has one candidate at a time, so a step costs a look at each bank, however many requests wait.
"""

from typing import Any

import numpy as np

from pimsim.compiled import inlined, kernel, part
from pimsim.dram.issue import activate, column, column_end, gate_activations, gate_columns, precharge
from pimsim.dram.queue import append, change_over, choose, waiting_write
from pimsim.dram.refresh import best_refresh, fall_due, send_refresh
from pimsim.dram.state import (
    ACTIVATE,
    FAR,
    FORWARDED,
    LAST_READ,
    LATENCY,
    LATEST,
    LOG_COLUMNS,
    NONE,
    OF_REFRESH,
    PRECHARGE,
    RANKING_BITS,
    READ,
    READS,
    REQUEST_BITS,
    REQUEST_MASK,
    WRITE,
    WRITES,
)


@kernel
def advance(
    cycle: Any, write: Any, bank_of: Any, row: Any, column_of: Any, rules: Any, state: Any, entered: Any, done: Any,
    activated: Any,
) -> Any:  # fmt: skip
    """Serve all requests; returns the log of commands, and its length.

    Request i comes at cycle[i], never falling, to bank_of[i] (rank, bank group and bank in one number). `rules` [1] are
    of RULES, `state` is a State. Cycles of entering and of completion are written to `entered` and `done`; a write is
    done when it has entered. `activated` [banks] counts the activations.
    """
    controller, banks, slots, ranks, gates, log = state
    r, c = rules[0], controller[0]
    total, i = len(cycle), 0
    while True:
        if c.stale:
            _find_best(c, banks, ranks, gates)
        if i < total and c.queued[write[i]] < r.queue and max(cycle[i], c.door) <= min(c.best_time, c.next_due):
            now = max(cycle[i], c.door)
            c.door = now + 1
            entered[i] = now
            kind = write[i]
            if kind == READ and waiting_write(banks[bank_of[i]], slots, row[i], column_of[i]) != NONE:
                done[i] = now + 1
                _forward(c, now + 1)
            else:
                if kind == WRITE:
                    done[i] = now
                _enter(r, c, banks, slots, gates, bank_of, row[i], column_of[i], i, kind, now)
            i += 1
        elif i == total and c.queued[READ] == 0 and c.queued[WRITE] == 0 and c.owners == 0:
            return log, c.logged
        elif c.next_due <= c.best_time:
            fall_due(r, c, banks, slots, ranks)
        else:
            if log.shape[0] and c.logged == log.shape[0]:
                log = _doubled(log)
            _send(r, c, banks, slots, ranks, gates, bank_of, activated, done, log)


@inlined
def _find_best(c: Any, banks: Any, ranks: Any, gates: Any) -> None:
    """Find the candidate that can be sent first; of equal ones the one that ranks first."""
    base = c.bus
    best = LATEST << RANKING_BITS
    for number in range(banks.shape[0]):
        bank = banks[number]
        ready = max(bank.ready, gates[bank.gate], base) - base
        best = min(best, (min(ready, LATEST) << RANKING_BITS) + bank.ranking)
    c.base = base
    if c.pending:
        best = best_refresh(c, banks, ranks, best)
    c.best = best
    c.best_time = base + (best >> RANKING_BITS) if best >> RANKING_BITS < LATEST else FAR
    c.stale = 0


@inlined
def _enter(
    r: Any, c: Any, banks: Any, slots: Any, gates: Any, bank_of: Any, row: Any, column_of: Any, request: Any, kind: Any,
    now: Any,
) -> None:  # fmt: skip
    """Let a request into the queue of its bank."""
    number = bank_of[request]
    slot = c.free
    entry = slots[slot]
    c.free = entry.next
    entry.row, entry.column, entry.request, entry.entered = row, column_of, request, now
    entry.kind, entry.missed = kind, 0
    append(banks[number], slots, kind, slot)
    c.counts[WRITES if kind == WRITE else READS] += 1
    c.queued[kind] += 1
    c.bus = max(c.bus, now)
    if change_over(r, c, banks, slots):
        c.stale = 1
    elif kind == c.mode:
        _reconsider(r, c, banks, slots, gates, bank_of, number, slot)


@inlined
def _forward(c: Any, done: Any) -> None:
    """Count a read that a waiting write answers."""
    c.counts[READS] += 1
    c.counts[FORWARDED] += 1
    c.counts[LATENCY] += 1
    c.counts[LAST_READ] = max(c.counts[LAST_READ], done)


@inlined
def _reconsider(r: Any, c: Any, banks: Any, slots: Any, gates: Any, bank_of: Any, number: Any, slot: Any) -> None:
    """Choose a bank's candidate anew, now that a request of the kind that is served has come into `slot`."""
    bank = banks[number]
    changed = bank.head[c.mode] == slot
    if bank.hit == NONE and bank.open_row == slots[slot].row:
        bank.hit = slot
        changed = True
    if changed:
        choose(r, c, banks, slots, number)
    if c.best_time == FAR:
        c.stale = 1  # after a pause, which may be of any length
    elif changed:
        ready = max(bank.ready, gates[bank.gate], c.bus) - c.base
        ranked = (min(ready, LATEST) << RANKING_BITS) + bank.ranking
        if ranked < c.best:
            c.best = ranked
            c.best_time = c.base + ready
        elif (c.best >> REQUEST_BITS) & 3 != OF_REFRESH and bank_of[c.best & REQUEST_MASK] == number:
            c.stale = 1


@inlined
def _send(
    r: Any, c: Any, banks: Any, slots: Any, ranks: Any, gates: Any, bank_of: Any, activated: Any, done: Any, log: Any
) -> None:
    """Send the best candidate."""
    now, best = c.best_time, c.best
    c.bus = now + 1 if r.buses == 1 else now
    c.stale = 1
    request = NONE
    if (best >> REQUEST_BITS) & 3 == OF_REFRESH:
        rank = ranks[best & REQUEST_MASK]
        number = rank.first_bank
        command = send_refresh(r, c, banks, slots, rank, now)
    else:
        request = best & REQUEST_MASK
        number = bank_of[request]
        bank = banks[number]
        command = bank.command
        if command == ACTIVATE:
            activated[number] += 1
            activate(r, c, bank, slots, now)
            gate_activations(r, ranks[bank.rank], gates, now, bank)
        elif command == PRECHARGE:
            precharge(r, c, bank, now)
        else:
            gate_columns(r, gates, now, bank, command)
            if command == READ:
                done[request] = column_end(r, READ, now)
            command = column(r, c, bank, slots, now, command)
        change_over(r, c, banks, slots)
        choose(r, c, banks, slots, number)
    if r.buses == 2 and c.row_bus > now:  # columns are kept apart by their own timings
        for other in range(ACTIVATE * r.ranks * r.bank_groups, gates.shape[0]):
            gates[other] = max(gates[other], c.row_bus)
    if log.shape[0]:
        line = c.logged
        log[line, 0], log[line, 1], log[line, 2], log[line, 3] = now, command, number, request
        c.logged += 1


@part
def _doubled(log: Any) -> Any:
    """A log with twice the room."""
    longer = np.empty((2 * log.shape[0], LOG_COLUMNS), np.int64)
    longer[: log.shape[0]] = log
    return longer
