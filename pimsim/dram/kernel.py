"""The kernel: one pseudo channel's controller and banks, advanced from command to command, in compiled code.

Within a cycle: (1) a request enters, (2) refreshes fall due, (3) one command is sent: the one that can be sent first.
Of those that can be sent in the same cycle a refresh and its precharge come first, then the column of a request for
which a row was opened, then whatever else, the oldest request first in each. Where rows and columns have command buses
of their own (HBM), a second command of the other kind may follow in the same cycle.

A request waits in the queue until its row is opened for it or, where it finds it open, until its column is sent. Who
has had a row opened owns it: nobody closes it before the owner's column, which is sent whether reads or writes are
being served. Each bank has one candidate at a time, so a step costs a look at each bank, however many requests wait.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pimsim.compiled import kernel

FAR = 1 << 60  # a cycle that never comes
NOBODY = -1

# codes of commands, as the log has them; the first four are candidates of banks
READ, WRITE, ACTIVATE, PRECHARGE = 0, 1, 2, 3
READ_CLOSING, WRITE_CLOSING, PRECHARGE_ALL, REFRESH, REFRESH_BANK = 4, 5, 6, 7, 8

# columns of the table of banks
OPEN_ROW, CAN_ACTIVATE, CAN_COLUMN, CAN_PRECHARGE, SERVED, HIT, HELD = 0, 1, 2, 3, 4, 5, 6
# OWNER: the slot for which the row was opened; GROUPS: of all ranks; HEAD, TAIL: of reads, then of writes
SLOT, GROUP, GROUPS, OWNER, HEAD, TAIL = 7, 8, 9, 10, 11, 13
BANK_COLUMNS = 15

# columns of the table of candidates, which has a row for each bank
READY, GATE, RANKING = 0, 1, 2
CANDIDATE_COLUMNS = 4  # a power of two is faster
# a candidate in one number, the lower the sooner: cycles from now, order (2 bits), request (32 bits)
REQUEST_BITS, RANKING_BITS = 32, 34
REQUEST_MASK = (1 << REQUEST_BITS) - 1
LATEST = 1 << 28  # cycles from now: more than any timing
OF_REFRESH, OF_OWNER, OF_OTHERS = 0, 1, 2

# columns of the table of queued requests
ROW, COLUMN, REQUEST, NEXT, MISSED, KIND = 0, 1, 2, 3, 4, 5
SLOT_COLUMNS = 6

# what is counted
READS, WRITES, FORWARDED, ACTIVATES, PRECHARGES = 0, 1, 2, 3, 4
REFRESHES, HITS, LAST_READ, LAST_DATA, LATENCY = 5, 6, 7, 8, 9
COUNTS = 10

LOG_COLUMNS = 4  # cycle, command, bank (the first of the rank for its refresh), request


class Rules(NamedTuple):
    """Timings in cycles, as `Timing` names them, and what the controller does."""

    tRCD: int
    tRP: int
    tRAS: int
    tRC: int
    tCL: int
    tCWL: int
    tBL: int
    tCCD_S: int
    tCCD_L: int
    tRRD_S: int
    tRRD_L: int
    tFAW: int
    tRTP: int
    tWR: int
    tWTR_S: int
    tWTR_L: int
    tRTRS: int
    tRFC: int
    tREFI: int
    tRFCpb: int
    tREFIpb: int
    ranks: int
    bank_groups: int  # a rank
    banks: int  # a bank group
    queue: int  # reads, and as many writes
    high_water: int  # above so many writes they are sent
    low_water: int  # below so many reads are sent again
    row_hit_cap: int
    closed_page: int  # 0 or 1
    refresh: int  # 0 none, 1 all banks of a rank, 2 one bank
    buses: int  # for commands: 1, or 2, of which one is for columns


def _hit(banks: Any, slots: Any, bank: int, mode: int) -> int:
    """The oldest queued request of this kind for the row that is open."""
    slot = banks[bank, HEAD + mode]
    row = banks[bank, OPEN_ROW]
    while slot != NOBODY and slots[slot, ROW] != row:
        slot = slots[slot, NEXT]
    return slot


def _choose(banks: Any, slots: Any, candidates: Any, bank: int, mode: int, cap: int) -> None:
    """The command that this bank needs next, and the first cycle that the bank itself allows for it."""
    slot = banks[bank, OWNER]
    if slot != NOBODY:
        kind = slots[slot, KIND]
        order = OF_OWNER
        candidates[bank, READY] = banks[bank, CAN_COLUMN]
    else:
        head = banks[bank, HEAD + mode]
        if head == NOBODY or banks[bank, HELD]:
            candidates[bank, READY] = FAR
            return
        slot = head
        if banks[bank, OPEN_ROW] == NOBODY:
            kind = ACTIVATE
            candidates[bank, READY] = banks[bank, CAN_ACTIVATE]
        elif banks[bank, HIT] != NOBODY and (banks[bank, HIT] == head or banks[bank, SERVED] < cap):
            kind = mode
            slot = banks[bank, HIT]
            candidates[bank, READY] = banks[bank, CAN_COLUMN]
        else:
            kind = PRECHARGE
            candidates[bank, READY] = banks[bank, CAN_PRECHARGE]
        order = OF_OTHERS
    banks[bank, SLOT] = slot
    candidates[bank, GATE] = kind * banks[bank, GROUPS] + banks[bank, GROUP]
    candidates[bank, RANKING] = (order << REQUEST_BITS) + slots[slot, REQUEST]


def _remove(banks: Any, slots: Any, bank: int, mode: int, slot: int) -> None:
    """Takes a request out of its bank's list."""
    before = banks[bank, HEAD + mode]
    after = slots[slot, NEXT]
    if before == slot:
        banks[bank, HEAD + mode] = after
        before = NOBODY
    else:
        while slots[before, NEXT] != slot:
            before = slots[before, NEXT]
        slots[before, NEXT] = after
    if after == NOBODY:
        banks[bank, TAIL + mode] = before


def _append(banks: Any, slots: Any, bank: int, mode: int, slot: int) -> None:
    slots[slot, NEXT] = NOBODY
    tail = banks[bank, TAIL + mode]
    if tail == NOBODY:
        banks[bank, HEAD + mode] = slot
    else:
        slots[tail, NEXT] = slot
    banks[bank, TAIL + mode] = slot


def _mode(mode: int, reads: int, writes: int, high_water: int, low_water: int) -> int:
    """Whether reads or writes that wait are served next."""
    if mode == READ:
        return WRITE if writes > high_water or (reads == 0 and writes > 0) else READ
    return READ if reads > 0 and writes < low_water else WRITE


next_mode = kernel(_mode)
hit_of = kernel(_hit)
choose = kernel(_choose)
remove = kernel(_remove)
append = kernel(_append)


def _advance(
    cycles: Any,
    writes: Any,
    bank_of: Any,
    rows: Any,
    columns: Any,
    rules: Rules,
    entered: Any,
    done: Any,
    activated: Any,
    logged: bool,
) -> tuple[Any, Any, int]:
    """Sends all requests; what each entered and was done at goes to the arrays of these names.

    Request i comes at cycles[i], never falling, to bank_of[i] (rank, bank group and bank in one number). A write is
    done when it has entered. `activated` counts the activations of each bank. Returns the counts, the log of commands
    (empty unless `logged`) and its length.
    """
    per_rank = rules.bank_groups * rules.banks
    bank_count = rules.ranks * per_rank
    groups = rules.ranks * rules.bank_groups
    banks = np.zeros((bank_count, BANK_COLUMNS), np.int64)
    banks[:, OPEN_ROW] = NOBODY
    banks[:, HIT] = NOBODY
    banks[:, OWNER] = NOBODY
    banks[:, GROUPS] = groups
    banks[:, GROUP] = np.arange(bank_count) // rules.banks
    banks[:, HEAD:] = NOBODY
    candidates = np.zeros((bank_count, CANDIDATE_COLUMNS), np.int64)
    candidates[:, READY] = FAR
    free_count = 2 * rules.queue + bank_count
    slots = np.zeros((free_count, SLOT_COLUMNS), np.int64)
    free = np.arange(free_count)
    queued = np.zeros(2, np.int64)  # reads and writes that wait, less those whose row has been opened for them
    owners = 0  # those
    # by command (READ, WRITE, ACTIVATE, PRECHARGE) and bank group: the first cycle that the group, its rank and the
    # channel allow
    gates = np.zeros(4 * groups, np.int64)
    activations = np.full((rules.ranks, 4), -FAR, np.int64)  # the last four of each rank, a ring
    ring = np.zeros(rules.ranks, np.int64)
    # refreshes: of a rank, or of one bank of it at a time
    per_bank = rules.refresh == 2
    period = rules.tREFIpb if per_bank else rules.tREFI
    due = np.full(rules.ranks, period if rules.refresh else FAR, np.int64)
    refreshing = np.zeros(rules.ranks, np.int64)
    first_bank = np.zeros(rules.ranks, np.int64)  # the banks that the pending refresh closes
    last_bank = np.zeros(rules.ranks, np.int64)
    turn = np.zeros(rules.ranks, np.int64)
    pending = 0
    next_due = period if rules.refresh else FAR

    read_to_write = max(rules.tCL + rules.tBL + rules.tRTRS - rules.tCWL, 1)
    write_to_read_rank = max(rules.tCWL + rules.tBL + rules.tRTRS - rules.tCL, 1)
    other_rank = rules.tBL + rules.tRTRS

    counts = np.zeros(COUNTS, np.int64)
    log = np.empty((1024 if logged else 1, LOG_COLUMNS), np.int64)
    log_length = 0
    total = len(cycles)
    at = 0  # the next request to enter
    door = 0  # the first cycle in which it may
    bus = 0  # the first cycle in which a command may be sent
    row_bus = 0  # and one for rows, which may have a bus of their own
    mode = READ
    stale = True  # the best candidate must be looked for
    best: Any = 0  # in one number, with cycles from `base` on
    base = 0
    best_time: Any = 0

    while True:
        if stale:
            base = bus
            best = LATEST << RANKING_BITS
            for bank in range(bank_count):
                ready = max(candidates[bank, READY], gates[candidates[bank, GATE]], base) - base
                best = min(best, (min(ready, LATEST) << RANKING_BITS) + candidates[bank, RANKING])
            if pending:
                for rank in range(rules.ranks):
                    if refreshing[rank]:
                        opened = False
                        closing = closed = max(bus, row_bus)
                        for bank in range(first_bank[rank], last_bank[rank]):
                            if banks[bank, OWNER] != NOBODY:  # a row is not opened for nothing
                                closing = LATEST + base
                                opened = True
                            closed = max(closed, banks[bank, CAN_ACTIVATE])
                            if banks[bank, OPEN_ROW] != NOBODY:
                                opened = True
                                closing = max(closing, banks[bank, CAN_PRECHARGE])
                        ready = closing if opened else closed
                        best = min(best, (min(ready - base, LATEST) << RANKING_BITS) + rank)
            best_time = base + (best >> RANKING_BITS) if best >> RANKING_BITS < LATEST else FAR
            stale = False

        if at < total and queued[writes[at]] < rules.queue and max(cycles[at], door) <= min(best_time, next_due):
            # (1) a request enters
            now = max(cycles[at], door)
            door = now + 1
            kind = writes[at]
            bank = bank_of[at]
            entered[at] = now
            if kind == WRITE:
                done[at] = now
                counts[WRITES] += 1
            else:
                counts[READS] += 1
                slot = banks[bank, HEAD + WRITE]
                while slot != NOBODY and not (slots[slot, ROW] == rows[at] and slots[slot, COLUMN] == columns[at]):
                    slot = slots[slot, NEXT]
                if slot != NOBODY:  # the write that waits has the data
                    done[at] = now + 1
                    counts[FORWARDED] += 1
                    counts[LATENCY] += 1
                    counts[LAST_READ] = max(counts[LAST_READ], now + 1)
                    at += 1
                    continue
            free_count -= 1
            slot = free[free_count]
            slots[slot, ROW] = rows[at]
            slots[slot, COLUMN] = columns[at]
            slots[slot, REQUEST] = at
            slots[slot, MISSED] = 0
            slots[slot, KIND] = kind
            append(banks, slots, bank, kind, slot)
            queued[kind] += 1
            at += 1
            wanted = next_mode(mode, queued[READ], queued[WRITE], rules.high_water, rules.low_water)
            bus = max(bus, now)
            if wanted != mode:
                mode = wanted
                for other in range(bank_count):
                    banks[other, HIT] = hit_of(banks, slots, other, mode)
                    choose(banks, slots, candidates, other, mode, rules.row_hit_cap)
                stale = True
            elif kind == mode:
                changed = banks[bank, HEAD + mode] == slot
                if banks[bank, HIT] == NOBODY and banks[bank, OPEN_ROW] == rows[at - 1]:
                    banks[bank, HIT] = slot
                    changed = True
                if changed:
                    choose(banks, slots, candidates, bank, mode, rules.row_hit_cap)
                if best_time == FAR:
                    stale = True  # after a pause, which may be of any length
                elif changed:
                    ready = max(candidates[bank, READY], gates[candidates[bank, GATE]], bus) - base
                    ranked = (min(ready, LATEST) << RANKING_BITS) + candidates[bank, RANKING]
                    if ranked < best:
                        best = ranked
                        best_time = base + ready
                    elif (best >> REQUEST_BITS) & 3 and bank_of[best & REQUEST_MASK] == bank:
                        stale = True
            continue

        if at == total and queued[READ] == 0 and queued[WRITE] == 0 and owners == 0:
            break

        if next_due <= best_time:
            # (2) refreshes fall due: their banks take no more requests until it is done
            bus = max(bus, next_due)
            for rank in range(rules.ranks):
                if due[rank] <= next_due and not refreshing[rank]:
                    refreshing[rank] = 1
                    pending += 1
                    first_bank[rank] = rank * per_rank + (turn[rank] if per_bank else 0)
                    last_bank[rank] = first_bank[rank] + (1 if per_bank else per_rank)
                    for bank in range(first_bank[rank], last_bank[rank]):
                        banks[bank, HELD] = 1
                        choose(banks, slots, candidates, bank, mode, rules.row_hit_cap)
            next_due = FAR
            for rank in range(rules.ranks):
                if not refreshing[rank]:
                    next_due = min(next_due, due[rank])
            stale = True
            continue

        # (3) one command is sent
        now = best_time
        bus = now + 1 if rules.buses == 1 else now
        stale = True
        request = NOBODY
        order = (best >> REQUEST_BITS) & 3
        if order == OF_REFRESH:
            rank = best & REQUEST_MASK
            bank = first_bank[rank]
            row_bus = now + 1
            opened = False
            for other in range(first_bank[rank], last_bank[rank]):
                if banks[other, OPEN_ROW] != NOBODY:
                    opened = True
                    banks[other, OPEN_ROW] = NOBODY
                    banks[other, HIT] = NOBODY
                    banks[other, CAN_ACTIVATE] = max(banks[other, CAN_ACTIVATE], now + rules.tRP)
                    counts[PRECHARGES] += 1
            if opened:
                command = PRECHARGE if per_bank else PRECHARGE_ALL
            else:
                command = REFRESH_BANK if per_bank else REFRESH
                counts[REFRESHES] += 1
                for other in range(first_bank[rank], last_bank[rank]):
                    banks[other, CAN_ACTIVATE] = now + (rules.tRFCpb if per_bank else rules.tRFC)
                    banks[other, HELD] = 0
                    choose(banks, slots, candidates, other, mode, rules.row_hit_cap)
                refreshing[rank] = 0
                pending -= 1
                turn[rank] = (turn[rank] + 1) % per_rank
                due[rank] += period
                next_due = min(next_due, due[rank])
        else:
            request = best & REQUEST_MASK
            bank = bank_of[request]
            command = candidates[bank, GATE] // groups
            slot = banks[bank, SLOT]
            rank = bank // per_rank
            group = bank // rules.banks
            if command == ACTIVATE:
                row_bus = now + 1
                door = max(door, now + 1)  # who waits for the room sees it in the next cycle
                queued[mode] -= 1
                owners += 1
                banks[bank, OWNER] = slot
                counts[ACTIVATES] += 1
                activated[bank] += 1
                slots[slot, MISSED] = 1
                banks[bank, OPEN_ROW] = slots[slot, ROW]
                banks[bank, SERVED] = 0
                banks[bank, HIT] = slot  # the oldest of the bank
                banks[bank, CAN_COLUMN] = now + rules.tRCD
                banks[bank, CAN_PRECHARGE] = now + rules.tRAS
                banks[bank, CAN_ACTIVATE] = now + rules.tRC
                activations[rank, ring[rank]] = now
                ring[rank] = (ring[rank] + 1) & 3
                window = activations[rank, ring[rank]] + rules.tFAW  # the fourth last, and the next makes five
                for other in range(rank * rules.bank_groups, (rank + 1) * rules.bank_groups):
                    gap = rules.tRRD_L if other == group else rules.tRRD_S
                    gates[ACTIVATE * groups + other] = max(gates[ACTIVATE * groups + other], now + gap, window)
            elif command == PRECHARGE:
                row_bus = now + 1
                counts[PRECHARGES] += 1
                banks[bank, OPEN_ROW] = NOBODY
                banks[bank, HIT] = NOBODY
                banks[bank, CAN_ACTIVATE] = max(banks[bank, CAN_ACTIVATE], now + rules.tRP)
            else:
                remove(banks, slots, bank, command, slot)
                free[free_count] = slot
                free_count += 1
                if banks[bank, OWNER] == slot:
                    banks[bank, OWNER] = NOBODY
                    owners -= 1
                else:
                    door = max(door, now + 1)
                    queued[command] -= 1
                banks[bank, SERVED] += 1
                counts[HITS] += 1 - slots[slot, MISSED]
                first_group = rank * rules.bank_groups
                past_group = first_group + rules.bank_groups
                if command == READ:
                    finish = now + rules.tCL + rules.tBL
                    done[request] = finish
                    counts[LATENCY] += finish - entered[request]
                    counts[LAST_READ] = max(counts[LAST_READ], finish)
                    banks[bank, CAN_PRECHARGE] = max(banks[bank, CAN_PRECHARGE], now + rules.tRTP)
                    for other in range(groups):
                        gap = other_rank
                        if first_group <= other < past_group:
                            gap = rules.tCCD_L if other == group else rules.tCCD_S
                        gates[READ * groups + other] = max(gates[READ * groups + other], now + gap)
                        gates[WRITE * groups + other] = max(gates[WRITE * groups + other], now + read_to_write)
                else:
                    finish = now + rules.tCWL + rules.tBL
                    banks[bank, CAN_PRECHARGE] = max(banks[bank, CAN_PRECHARGE], finish + rules.tWR)
                    for other in range(groups):
                        gap = other_rank
                        turnaround = write_to_read_rank
                        if first_group <= other < past_group:
                            gap = rules.tCCD_L if other == group else rules.tCCD_S
                            turnaround = rules.tCWL + rules.tBL + (rules.tWTR_L if other == group else rules.tWTR_S)
                        gates[WRITE * groups + other] = max(gates[WRITE * groups + other], now + gap)
                        gates[READ * groups + other] = max(gates[READ * groups + other], now + turnaround)
                counts[LAST_DATA] = max(counts[LAST_DATA], finish)
                banks[bank, HIT] = hit_of(banks, slots, bank, mode)
                if rules.closed_page and banks[bank, HIT] == NOBODY and hit_of(banks, slots, bank, 1 - mode) == NOBODY:
                    # it closes by itself as soon as it may
                    command += READ_CLOSING
                    counts[PRECHARGES] += 1
                    banks[bank, OPEN_ROW] = NOBODY
                    banks[bank, CAN_ACTIVATE] = max(banks[bank, CAN_ACTIVATE], banks[bank, CAN_PRECHARGE] + rules.tRP)
            wanted = next_mode(mode, queued[READ], queued[WRITE], rules.high_water, rules.low_water)
            if wanted != mode:
                mode = wanted
                for other in range(bank_count):
                    banks[other, HIT] = hit_of(banks, slots, other, mode)
                    choose(banks, slots, candidates, other, mode, rules.row_hit_cap)
            choose(banks, slots, candidates, bank, mode, rules.row_hit_cap)
        if rules.buses == 2 and row_bus > now:  # columns are kept apart by their own timings
            for other in range(ACTIVATE * groups, 4 * groups):
                gates[other] = max(gates[other], row_bus)
        if logged:
            if log_length == len(log):
                longer = np.empty((2 * len(log), LOG_COLUMNS), np.int64)
                longer[:log_length] = log
                log = longer
            log[log_length, 0] = now
            log[log_length, 1] = command
            log[log_length, 2] = bank
            log[log_length, 3] = request
            log_length += 1

    return counts, log, log_length


advance = kernel(_advance)
