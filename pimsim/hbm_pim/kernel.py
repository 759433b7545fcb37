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

from pimsim.compiled import inlined, kernel, part
from pimsim.hbm_pim.state import CLOSED, FAR, LINE, Rules, State, as_record
from pimsim.hbm_pim.stream import BARRIER, MAC, WRITE, Stream

# commands of the log, after the kinds of requests
ACT, PRE, REF = 7, 8, 9
NOWHERE = -1  # no place of the window


class Counts(NamedTuple):
    """What the kernel counted on one channel. `cycles` is the cycle of the last command; the first cycle is 1."""

    cycles: int
    activates: int
    precharges: int
    refreshes: int


class CommandLog(NamedTuple):
    """Commands of one channel in the order of issue: arrays of one length. `kind` is a kind of request, or ACT, PRE,
    REF.
    """

    cycle: NDArray[np.int64]
    kind: NDArray[np.int8]
    slot: NDArray[np.int16]
    row: NDArray[np.int32]
    column: NDArray[np.int16]


def run(stream: Stream, rules: Rules) -> Counts:
    """Issue the requests of `stream` by these rules, and count the commands and cycles that takes."""
    return _run(stream, rules, np.empty(0, LINE))


def run_logged(stream: Stream, rules: Rules) -> tuple[Counts, CommandLog]:
    """Issue as `run` does, and keep every command with its cycle; the log takes about 50 bytes a request."""
    counts = run(stream, rules)
    requests = int(np.count_nonzero(stream.kind != BARRIER))
    log = np.empty(requests + counts.activates + counts.precharges + counts.refreshes, LINE)
    _run(stream, rules, log)
    return counts, CommandLog(*(log[name].copy() for name in CommandLog._fields))


def _run(stream: Stream, rules: Rules, log: NDArray[np.void]) -> Counts:
    state = State.begin(rules)
    _issue(*stream, as_record(rules), *state, log)
    end = state.controller[0]
    return Counts(int(end["last"]), int(end["activates"]), int(end["precharges"]), int(end["refreshes"]))


@kernel
def _issue(
    kinds: Any, slot_of: Any, rows: Any, columns: Any, rules: Any, controller: Any, slots: Any, groups: Any,
    stack_ids: Any, window: Any, log: Any,
) -> None:  # fmt: skip
    """Turn the requests of a Stream into commands by RULES [1]; the arrays of a State and the log are written."""
    r, c = rules[0], controller[0]
    while True:
        _fetch(c, kinds, slot_of, rows, slots, window)
        if c.waiting == 0:
            return
        if c.now >= c.refresh_due:
            _refresh(r, c, slots, log)
            continue
        column_place, row_place, soonest = _pick(r, c, kinds, slot_of, rows, slots, groups, stack_ids, window)
        if column_place == NOWHERE and row_place == NOWHERE:
            c.now = min(soonest, max(c.refresh_due, c.now + 1))
            continue
        c.last = c.now
        if row_place != NOWHERE:
            i = window[row_place]
            if slots[slot_of[i]].open_row != CLOSED:
                _precharge(r, c, slots, slot_of[i], log)
                c.row_bus = c.now + 1
            else:
                _activate(r, c, slots, groups, stack_ids, slot_of[i], rows[i], log)
                slots[slot_of[i]].hits = _hits(c, kinds, slot_of, rows, window, slot_of[i], rows[i])
        if column_place != NOWHERE:
            i = window[column_place]
            if kinds[i] == MAC or kinds[i] == WRITE:
                _mac(r, c, slots, groups, stack_ids, slot_of[i], kinds[i])
            else:
                _move(r, c, groups, stack_ids, slot_of[i])
            _log(c, log, kinds[i], slot_of[i], rows[i], columns[i])
            _take(c, window, column_place)
        c.now += 1


@inlined
def _fetch(c: Any, kinds: Any, slot_of: Any, rows: Any, slots: Any, window: Any) -> None:
    """Fill the window, and drop the barriers at its head, as all before them has gone."""
    while True:
        while c.waiting < window.shape[0] and c.fetched < kinds.shape[0]:
            i = c.fetched
            window[c.waiting] = i
            c.waiting += 1
            c.fetched += 1
            if (kinds[i] == MAC or kinds[i] == WRITE) and slots[slot_of[i]].open_row == rows[i]:
                slots[slot_of[i]].hits += 1
        if c.waiting == 0 or kinds[window[0]] != BARRIER:
            return
        _take(c, window, 0)


@inlined
def _take(c: Any, window: Any, place: Any) -> None:
    """Take the request at a place out of the window."""
    c.waiting -= 1
    for after in range(place, c.waiting):
        window[after] = window[after + 1]


@part
def _refresh(r: Any, c: Any, slots: Any, log: Any) -> None:
    """While a refresh is due: close all rows, one PRE-all for those that may close in a cycle, and then refresh."""
    soonest, still_open = FAR, 0
    for number in range(r.slots):
        if slots[number].open_row == CLOSED:
            continue
        ready = max(slots[number].may_pre, c.row_bus)
        if ready > c.now:
            soonest = min(soonest, ready)
            still_open += 1
        else:
            c.last = c.now
            _precharge(r, c, slots, number, log)
            slots[number].hits = 0
    ready = max(c.closed_at, c.row_bus)
    if still_open == 0 and ready <= c.now:
        for number in range(r.slots):
            slots[number].may_act = max(slots[number].may_act, c.now + r.rfc)
        c.refreshes += 1
        c.refresh_due += r.refi
        c.row_bus = c.now + 1
        c.last = c.now
        _log(c, log, REF, -1, -1, -1)
        c.now += 1
    else:
        c.now = max(c.now + 1, soonest if still_open else ready)


@inlined
def _pick(
    r: Any, c: Any, kinds: Any, slot_of: Any, rows: Any, slots: Any, groups: Any, stack_ids: Any, window: Any
) -> Any:
    """Places in the window of the first column and the first row command that may go now, or NOWHERE, and the soonest
    cycle in which another may."""
    now, may_mac, may_move, row_bus = c.now, c.may_mac, c.may_move, c.row_bus
    column_place, row_place, soonest = NOWHERE, NOWHERE, FAR
    behind_barrier = False
    for place in range(c.waiting):
        i = window[place]
        kind, number = kinds[i], slot_of[i]
        if kind == BARRIER:
            behind_barrier = True
            continue
        if kind in (MAC, WRITE):
            slot = slots[number]
            if slot.open_row == rows[i]:
                if behind_barrier or column_place != NOWHERE:
                    continue
                ready = max(slot.may_mac, may_mac, groups[slot.group].may_mac, stack_ids[slot.stack_id].may_mac)
                if ready <= now:
                    column_place = place
                else:
                    soonest = min(soonest, ready)
            elif row_place == NOWHERE:
                if slot.open_row != CLOSED:
                    if slot.hits > 0:
                        continue
                    ready = max(slot.may_pre, row_bus)
                else:
                    ready = _act_ready(r, c, slot, groups[slot.group], stack_ids[slot.stack_id])
                if ready <= now:
                    row_place = place
                else:
                    soonest = min(soonest, ready)
        elif not behind_barrier and column_place == NOWHERE:
            group = groups[number]
            ready = max(may_move, group.may_move, stack_ids[group.stack_id].may_move)
            if ready <= now:
                column_place = place
            else:
                soonest = min(soonest, ready)
        if column_place != NOWHERE and row_place != NOWHERE:
            break
    return column_place, row_place, soonest


@inlined
def _act_ready(r: Any, c: Any, slot: Any, group: Any, stack_id: Any) -> Any:
    """The first cycle in which a slot may be activated."""
    ready = max(slot.may_act, c.row_bus, group.may_act, stack_id.may_act)
    return max(ready, stack_id.acts[stack_id.ring] + r.faw) if r.faw > 0 else ready


@inlined
def _precharge(r: Any, c: Any, slots: Any, number: Any, log: Any) -> None:
    """The row of a slot is closed now."""
    slot = slots[number]
    slot.open_row = CLOSED
    slot.may_act = max(slot.may_act, c.now + r.rp)
    c.closed_at = max(c.closed_at, c.now + r.rp)
    c.precharges += 1
    _log(c, log, PRE, number, -1, -1)


@inlined
def _activate(r: Any, c: Any, slots: Any, groups: Any, stack_ids: Any, number: Any, row: Any, log: Any) -> None:
    """A row of a slot is opened now."""
    slot, now = slots[number], c.now
    stack_id = stack_ids[slot.stack_id]
    slot.open_row = row
    slot.may_mac = now + r.rcd
    slot.may_pre = now + r.ras
    slot.may_act = now + r.rc
    groups[slot.group].may_act = now + r.rrd_group
    stack_id.may_act = now + r.rrd_stack_id
    stack_id.acts[stack_id.ring] = now
    stack_id.ring = (stack_id.ring + 1) % 4
    c.row_bus = now + r.activate
    c.activates += 1
    _log(c, log, ACT, number, row, -1)


@inlined
def _hits(c: Any, kinds: Any, slot_of: Any, rows: Any, window: Any, number: Any, row: Any) -> Any:
    """How many requests of the window are for this row of a slot."""
    count = 0
    for place in range(c.waiting):
        i = window[place]
        if (kinds[i] == MAC or kinds[i] == WRITE) and slot_of[i] == number and rows[i] == row:
            count += 1
    return count


@inlined
def _mac(r: Any, c: Any, slots: Any, groups: Any, stack_ids: Any, number: Any, kind: Any) -> None:
    """A MAC or a write of a slot is issued now."""
    slot, now = slots[number], c.now
    c.may_mac = now + r.mac
    groups[slot.group].may_mac = now + r.mac_group
    stack_ids[slot.stack_id].may_mac = now + r.mac_stack_id
    slot.may_pre = max(slot.may_pre, now + (r.rtp if kind == MAC else r.write_to_precharge))
    slot.hits -= 1


@inlined
def _move(r: Any, c: Any, groups: Any, stack_ids: Any, number: Any) -> None:
    """A move of a bank group is issued now."""
    group = groups[number]
    c.may_move = c.now + r.move
    group.may_move = c.now + r.move_group
    stack_ids[group.stack_id].may_move = c.now + r.move_stack_id


@inlined
def _log(c: Any, log: Any, kind: Any, slot: Any, row: Any, column: Any) -> None:
    if log.shape[0]:
        line = log[c.logged]
        line.cycle, line.kind, line.slot, line.row, line.column = c.now, kind, slot, row, column
        c.logged += 1
