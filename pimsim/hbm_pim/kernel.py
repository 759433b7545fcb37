"""Event kernel: one channel's controller, which turns a stream of requests into commands at the first cycle allowed.

The rules, each of them a field of `Rules`:

- one column command (MAC, write, move) and one row command (ACT, PRE, REF) a cycle, on buses of their own;
- requests wait in a window of `window` entries, in order; the first that may go goes. A barrier lets no later column
  command pass, yet rows may be opened and closed behind it. A row is closed only when no request of the window hits it;
- a slot's ACT → MAC, ACT → PRE, MAC → PRE, PRE → ACT and ACT → ACT; MAC → MAC anywhere in the channel, in one stack
  ID, in one bank group; the same for moves; ACT → ACT in one stack ID and bank group, and four ACTs in tFAW;
- a refresh is due every tREFI: no other command is issued from then until all rows are closed and REF has gone; rows
  open again tRFC later, while moves go on.

A rule of 0 cycles never holds. Time jumps to the next cycle in which something can change.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pimsim.compiled import kernel
from pimsim.hbm_pim.stream import BARRIER, MAC, WRITE, Stream

# commands of the log, after the kinds of requests
ACT, PRE, REF = 7, 8, 9
_NEVER = -(1 << 40)
_FAR = 1 << 60


class Rules(NamedTuple):
    """Timing of one channel at one level, in cycles; slots as `stream` explains them."""

    slots: int
    slots_per_group: int  # slots of one bank group, for the rules between banks
    groups_per_stack_id: int
    stack_ids: int
    activate: int  # cycles that ACT takes on the row bus
    rcd: int
    rp: int
    ras: int
    rc: int
    rtp: int
    write_to_precharge: int
    mac: int  # MAC → MAC in the channel
    mac_stack_id: int
    mac_group: int
    rrd_stack_id: int
    rrd_group: int
    faw: int
    move: int  # move → move in the channel
    move_stack_id: int
    move_group: int
    rfc: int
    refi: int  # 0: no refresh
    window: int


class Counts(NamedTuple):
    """What the kernel counted on one channel. `cycles` is the cycle of the last command; the first cycle is 1."""

    cycles: int
    activates: int
    precharges: int
    refreshes: int


class CommandLog(NamedTuple):
    """Commands of one channel in the order of issue; `kind` is a kind of request, or ACT, PRE, REF."""

    cycle: NDArray[np.int64]
    kind: NDArray[np.int8]
    slot: NDArray[np.int16]
    row: NDArray[np.int32]
    column: NDArray[np.int16]


@kernel
def _issue(stream: Any, rules: Any, log: Any) -> tuple[int, int, int, int, int]:
    kinds, slots, rows, columns = stream
    log_cycle, log_kind, log_slot, log_row, log_column = log
    logging = log_cycle.size > 0
    size = kinds.size
    groups = rules.groups_per_stack_id * rules.stack_ids

    open_row = np.full(rules.slots, -1, np.int64)
    may_act = np.full(rules.slots, _NEVER, np.int64)
    may_mac = np.full(rules.slots, _NEVER, np.int64)
    may_pre = np.full(rules.slots, _NEVER, np.int64)
    group_mac = np.full(groups, _NEVER, np.int64)
    group_move = np.full(groups, _NEVER, np.int64)
    group_act = np.full(groups, _NEVER, np.int64)
    id_mac = np.full(rules.stack_ids, _NEVER, np.int64)
    id_move = np.full(rules.stack_ids, _NEVER, np.int64)
    id_act = np.full(rules.stack_ids, _NEVER, np.int64)
    last_acts = np.full((rules.stack_ids, 4), _NEVER, np.int64)  # a ring for each stack ID
    ring = np.zeros(rules.stack_ids, np.int64)
    any_mac, any_move, row_bus = _NEVER, _NEVER, _NEVER
    hits = np.zeros(rules.slots, np.int64)  # requests of the window that hit the slot's open row

    window = np.empty(rules.window, np.int64)
    waiting = 0
    fetched = 0
    now = 1
    last = 0
    refresh_due = rules.refi if rules.refi > 0 else _FAR
    closed_at = _NEVER  # from when REF may go, as all rows are precharged
    activates, precharges, refreshes, logged = 0, 0, 0, 0

    while True:
        while waiting < rules.window and fetched < size:
            index = fetched
            window[waiting] = index
            waiting += 1
            fetched += 1
            if kinds[index] in (MAC, WRITE) and open_row[slots[index]] == rows[index]:
                hits[slots[index]] += 1
        while waiting > 0 and kinds[window[0]] == BARRIER:
            waiting -= 1
            for place in range(waiting):
                window[place] = window[place + 1]
            if fetched < size:
                index = fetched
                window[waiting] = index
                waiting += 1
                fetched += 1
                if kinds[index] in (MAC, WRITE) and open_row[slots[index]] == rows[index]:
                    hits[slots[index]] += 1
        if waiting == 0:
            break

        soonest = _FAR
        if now >= refresh_due:
            still_open = 0
            for slot in range(rules.slots):
                if open_row[slot] < 0:
                    continue
                still_open += 1
                ready = max(may_pre[slot], row_bus)
                if ready > now:
                    soonest = min(soonest, ready)
                    continue
                # one PRE-all closes whatever may be closed
                open_row[slot] = -1
                hits[slot] = 0
                may_act[slot] = max(may_act[slot], now + rules.rp)
                closed_at = max(closed_at, now + rules.rp)
                still_open -= 1
                precharges += 1
                last = now
                if logging:
                    log_cycle[logged], log_kind[logged], log_slot[logged] = now, PRE, slot
                    log_row[logged], log_column[logged] = -1, -1
                    logged += 1
            if still_open == 0:
                ready = max(closed_at, row_bus)
                if ready <= now:
                    for slot in range(rules.slots):
                        may_act[slot] = max(may_act[slot], now + rules.rfc)
                    refreshes += 1
                    refresh_due += rules.refi
                    row_bus = now + 1
                    last = now
                    if logging:
                        log_cycle[logged], log_kind[logged], log_slot[logged] = now, REF, -1
                        log_row[logged], log_column[logged] = -1, -1
                        logged += 1
                    now += 1
                    continue
                soonest = min(soonest, ready)
            now = max(now + 1, soonest)
            continue

        column_pick, row_pick = -1, -1
        behind_barrier = False
        for place in range(waiting):
            index = window[place]
            kind = kinds[index]
            if kind == BARRIER:
                behind_barrier = True
                continue
            slot = slots[index]
            if kind in (MAC, WRITE):
                group = slot // rules.slots_per_group
                if open_row[slot] == rows[index]:
                    if behind_barrier or column_pick >= 0:
                        continue
                    stack_id = group // rules.groups_per_stack_id
                    ready = max(may_mac[slot], any_mac, group_mac[group], id_mac[stack_id])
                    if ready <= now:
                        column_pick = place
                    else:
                        soonest = min(soonest, ready)
                elif row_pick < 0:
                    if open_row[slot] >= 0:
                        if hits[slot] > 0:
                            continue
                        ready = max(may_pre[slot], row_bus)
                    else:
                        stack_id = group // rules.groups_per_stack_id
                        ready = max(may_act[slot], row_bus, group_act[group], id_act[stack_id])
                        if rules.faw > 0:
                            ready = max(ready, last_acts[stack_id, ring[stack_id]] + rules.faw)
                    if ready <= now:
                        row_pick = place
                    else:
                        soonest = min(soonest, ready)
            elif not behind_barrier and column_pick < 0:
                ready = max(any_move, group_move[slot], id_move[slot // rules.groups_per_stack_id])
                if ready <= now:
                    column_pick = place
                else:
                    soonest = min(soonest, ready)
            if column_pick >= 0 and row_pick >= 0:
                break

        if column_pick < 0 and row_pick < 0:
            now = min(soonest, max(refresh_due, now + 1))
            continue

        last = now
        if row_pick >= 0:
            index = window[row_pick]
            slot = slots[index]
            row = rows[index]
            if open_row[slot] >= 0:
                open_row[slot] = -1
                may_act[slot] = max(may_act[slot], now + rules.rp)
                closed_at = max(closed_at, now + rules.rp)
                row_bus = now + 1
                precharges += 1
                command = PRE
                row = -1
            else:
                group = slot // rules.slots_per_group
                stack_id = group // rules.groups_per_stack_id
                open_row[slot] = row
                may_mac[slot] = now + rules.rcd
                may_pre[slot] = now + rules.ras
                may_act[slot] = now + rules.rc
                group_act[group] = now + rules.rrd_group
                id_act[stack_id] = now + rules.rrd_stack_id
                last_acts[stack_id, ring[stack_id]] = now
                ring[stack_id] = (ring[stack_id] + 1) % 4
                row_bus = now + rules.activate
                activates += 1
                command = ACT
                count = 0
                for place in range(waiting):
                    other = window[place]
                    if kinds[other] in (MAC, WRITE) and slots[other] == slot and rows[other] == row:
                        count += 1
                hits[slot] = count
            if logging:
                log_cycle[logged], log_kind[logged], log_slot[logged] = now, command, slot
                log_row[logged], log_column[logged] = row, -1
                logged += 1
        if column_pick >= 0:
            index = window[column_pick]
            slot = slots[index]
            kind = kinds[index]
            if kind in (MAC, WRITE):
                group = slot // rules.slots_per_group
                any_mac = now + rules.mac
                group_mac[group] = now + rules.mac_group
                id_mac[group // rules.groups_per_stack_id] = now + rules.mac_stack_id
                may_pre[slot] = max(may_pre[slot], now + (rules.rtp if kind == MAC else rules.write_to_precharge))
                hits[slot] -= 1
            else:
                any_move = now + rules.move
                group_move[slot] = now + rules.move_group
                id_move[slot // rules.groups_per_stack_id] = now + rules.move_stack_id
            if logging:
                log_cycle[logged], log_kind[logged], log_slot[logged] = now, kind, slot
                log_row[logged], log_column[logged] = rows[index], columns[index]
                logged += 1
            waiting -= 1
            for place in range(column_pick, waiting):
                window[place] = window[place + 1]
        now += 1
    return last, activates, precharges, refreshes, logged


def _log_of(size: int) -> CommandLog:
    return CommandLog(
        np.empty(size, np.int64),
        np.empty(size, np.int8),
        np.empty(size, np.int16),
        np.empty(size, np.int32),
        np.empty(size, np.int16),
    )


_NO_LOG = _log_of(0)


def run(stream: Stream, rules: Rules) -> Counts:
    """Issue the requests of `stream` and count what that took."""
    cycles, activates, precharges, refreshes, _ = _issue(stream, rules, _NO_LOG)
    return Counts(cycles, activates, precharges, refreshes)


def run_logged(stream: Stream, rules: Rules) -> tuple[Counts, CommandLog]:
    """As `run`, and every command with its cycle; the log holds some 50 bytes a request."""
    counts = run(stream, rules)
    requests = int(np.count_nonzero(stream.kind != BARRIER))
    log = _log_of(requests + counts.activates + counts.precharges + counts.refreshes)
    _issue(stream, rules, log)
    return counts, log
