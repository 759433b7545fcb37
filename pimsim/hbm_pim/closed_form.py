"""Closed form: the cycles of a channel's command stream by arithmetic over its blocks, for sweeps over many designs.

Where the event kernel issues every command, this adds up whole runs: MACs at their interval, the rows that change in
between, the moves beside them, and the barrier that ends a block when the later of the two is done. Pairs of jobs
repeat, so that two of them stand for all; refreshes lengthen the sum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pimsim.compiled import kernel, part
from pimsim.hbm_pim.kernel import Counts
from pimsim.hbm_pim.state import Rules
from pimsim.hbm_pim.stream import BANK, BUFFER, Shape


class _Paces(NamedTuple):
    """Cycles from one command to the next of its kind."""

    mac: int  # where rows are open
    opening: float  # rows that open one after the other
    reopening: float  # the same, where old rows close before
    move: int  # to bank groups that alternate
    one_group: int
    result: int
    context: int
    probability: float


_LONG_AGO = -1e9
# the running state of `_blocks`, by index
_MAC, _MOVE, _BARRIER, _OPENED, _READY, _OPENING = range(6)
_RUN, _COUNT, _RUN_BEFORE, _LAST_BEFORE, _COUNT_BEFORE, _SIZE = range(6, 12)


def attention_counts(shape: Shape, rules: Rules, jobs: int) -> Counts:
    """What `kernel.run` would count of `stream.attention_stream(shape, jobs)`, within 5 % of its cycles."""
    paces = _paces(shape, rules)
    few = min(jobs, 4 + jobs % 2)
    cycles, tail = _attention(shape, rules, paces, few)
    if few < jobs:
        cycles += (jobs - few) / 2 * (cycles - _attention(shape, rules, paces, few - 2)[0])
    rows = jobs * (
        _rows(shape, rules, shape.score_outputs * shape.score_macs)
        + _rows(shape, rules, shape.context_outputs * shape.context_macs)
    )
    return _refreshed(shape, rules, paces, cycles, tail, rows)


def product_counts(shape: Shape, rules: Rules, chunks: int) -> Counts:
    """What `kernel.run` would count of `stream.product_stream(shape, chunks)`, within 5 % of its cycles."""
    paces = _paces(shape, rules)
    cycles, tail = _product(shape, rules, paces, chunks)
    rows = chunks * _rows(shape, rules, shape.score_outputs * shape.score_macs)
    return _refreshed(shape, rules, paces, cycles, tail, rows)


def _refreshed(shape: Shape, rules: Rules, paces: _Paces, cycles: float, tail: float, rows: int) -> Counts:
    """The counts when refreshes fall into `cycles`, of which no MAC needs the last `tail`, that open `rows` rows."""
    refreshes = 0
    if rules.refi:
        closing = rules.rtp + rules.rp
        lost = closing + rules.rfc + rules.rcd
        if shape.level == BUFFER:
            lost += max(0, round(rules.slots * (paces.reopening - paces.mac)))
        cycles -= tail
        while cycles + refreshes * lost >= (refreshes + 1) * rules.refi:
            # all that are due by now, at once: only the last few need another look
            refreshes = max(refreshes + 1, int((cycles + refreshes * lost) // rules.refi))
        rows += refreshes * min(rules.slots, rows)
        cycles += refreshes * lost + tail
        if cycles >= (refreshes + 1) * rules.refi:  # moves wait for REF, but not until it is done
            refreshes += 1
            cycles += closing
    return Counts(round(cycles), rows, max(0, rows - rules.slots), refreshes)


def _rows(shape: Shape, rules: Rules, macs: int) -> int:
    """Rows that an operand of this many MACs opens."""
    if shape.level != BUFFER:
        return -(-macs // shape.columns)
    sweeps, macs_left = divmod(macs, rules.slots * shape.columns)
    return sweeps * rules.slots + min(rules.slots, macs_left)


def _paces(shape: Shape, rules: Rules) -> _Paces:
    groups = shape.bank_groups * shape.stack_ids
    mac, per_id = rules.mac, 0.0
    if shape.level == BUFFER:
        mac = max(mac, rules.mac_stack_id, -(-rules.mac_group // groups))
        per_id = max(rules.rrd_stack_id, -(-rules.rrd_group // shape.bank_groups), rules.faw / 4)
        per_id /= shape.stack_ids
    opening, reopening = max(rules.activate, per_id), max(rules.activate + 1, per_id)
    move = max(rules.move, rules.move_stack_id if shape.stack_ids == 1 else 0)
    one_group = max(move, rules.move_stack_id, rules.move_group)
    if shape.level == BUFFER:
        return _Paces(mac, opening, reopening, move, one_group, one_group, one_group, one_group)
    # probabilities come in runs for one bank group: the end of each alternates with the next, as the window sees both
    alone = 1 - rules.window * groups / shape.probability_moves
    probability = max(move, one_group * alone)
    result = max(move, -(-rules.move_group // groups))
    context = max(move, -(-one_group // shape.stack_ids))
    return _Paces(mac, opening, reopening, move, one_group, result, context, probability)


@kernel
def _attention(shape: Any, rules: Any, paces: Any, jobs: int) -> tuple[float, float]:
    """Cycle of the last command of `jobs` jobs without refreshes, and the cycles from the last MAC to it."""
    state, used = _start(rules)
    probabilities = shape.probability_moves * shape.vectors * paces.probability
    softmax = shape.vectors * paces.move
    loads = shape.loads * shape.vectors * paces.one_group
    results = shape.score_moves * shape.vectors * paces.result
    columns = shape.context_moves * shape.vectors * paces.context
    size = shape.outputs_per_move
    score_blocks = (shape.score_outputs + size - 1) // size
    carried = 0.0  # moves of the last block of a segment, which the next one begins with
    for job in range(0, jobs, 2):
        _wait(state, carried + loads)
        if job + 1 < jobs:
            for second in range(2):
                late = score_blocks // 2
                for block in range(score_blocks):
                    begin = block * size * shape.score_macs
                    end = min((block + 1) * size, shape.score_outputs) * shape.score_macs
                    moves = results if block > 0 else (carried if second else 0.0)
                    if second:
                        moves += softmax if block == 0 else 0.0
                        moves += probabilities / (score_blocks - late) if block >= late else 0.0
                    else:
                        moves = _together(moves, loads / score_blocks, paces)
                    _block(shape, rules, paces, state, used, begin, end, moves)
                carried = results
            for second in range(2):
                late = shape.context_outputs // 2
                for block in range(shape.context_outputs):
                    begin, end = block * shape.context_macs, (block + 1) * shape.context_macs
                    moves = columns if block > 0 else carried
                    if not second:
                        moves += softmax if block == 0 else 0.0
                        moves += probabilities / (shape.context_outputs - late) if block >= late else 0.0
                    _block(shape, rules, paces, state, used, begin, end, moves)
                carried = columns
        else:
            for block in range(score_blocks):
                begin = block * size * shape.score_macs
                end = min((block + 1) * size, shape.score_outputs) * shape.score_macs
                _block(shape, rules, paces, state, used, begin, end, results if block > 0 else 0.0)
            _wait(state, results + softmax + probabilities)  # nothing runs beside this softmax
            for block in range(shape.context_outputs):
                begin, end = block * shape.context_macs, (block + 1) * shape.context_macs
                _block(shape, rules, paces, state, used, begin, end, columns if block > 0 else 0.0)
            carried = columns
    end = max(state[_MAC], max(state[_MOVE], state[_BARRIER]) + carried - paces.move)
    return end, end - state[_MAC]


@kernel
def _product(shape: Any, rules: Any, paces: Any, chunks: int) -> tuple[float, float]:
    """As `_attention`, of a product of weights with vectors whose inputs come in `chunks`."""
    state, used = _start(rules)
    loads = shape.loads * shape.vectors * paces.one_group
    results = shape.score_moves * shape.vectors * paces.result
    size = shape.outputs_per_move
    blocks = (shape.score_outputs + size - 1) // size
    _wait(state, loads)
    for chunk in range(chunks):
        beside = loads / blocks if chunk + 1 < chunks else 0.0
        for block in range(blocks):
            begin = block * size * shape.score_macs
            end = min((block + 1) * size, shape.score_outputs) * shape.score_macs
            moves = results if block > 0 or chunk > 0 else 0.0
            _block(shape, rules, paces, state, used, begin, end, _together(moves, beside, paces))
    end_of_all = max(state[_MAC], max(state[_MOVE], state[_BARRIER]) + results - paces.move)
    return end_of_all, end_of_all - state[_MAC]


@part
def _start(rules: Any) -> tuple[Any, Any]:
    """The running state at the start, and of each slot its last MAC and when its row was opened."""
    state = np.zeros(_SIZE)
    state[_MAC], state[_MOVE], state[_BARRIER], state[_OPENED] = _LONG_AGO, 1, 1, _LONG_AGO
    return state, np.full((rules.slots, 2), _LONG_AGO)


@part
def _together(moves: float, loads: float, paces: Any) -> float:
    """Cycles of moves with a share of the loads, which leave gaps for them as they go to one bank group."""
    return max(moves + loads * paces.move / paces.one_group, loads)


@part
def _wait(state: Any, moves: float) -> None:
    """Moves that no MAC runs beside, and the barrier behind them."""
    start = max(state[_MOVE], state[_BARRIER])
    state[_MOVE] = start + moves
    state[_BARRIER] = max(state[_BARRIER], start + moves - 1)


@part
def _earlier(state: Any, paces: Any, macs: int) -> float:
    """When the MAC went that is `macs` before the last one; known for the last two runs."""
    if macs < state[_COUNT]:
        return state[_MAC] - macs * (state[_MAC] - state[_RUN]) / max(1.0, state[_COUNT] - 1)
    macs -= int(state[_COUNT])
    if state[_COUNT_BEFORE] <= 0:
        return 1.0
    if macs < state[_COUNT_BEFORE]:
        before = state[_LAST_BEFORE]
        return before - macs * (before - state[_RUN_BEFORE]) / max(1.0, state[_COUNT_BEFORE] - 1)
    return state[_RUN_BEFORE] - (macs - state[_COUNT_BEFORE]) * paces.mac


@part
def _block(shape: Any, rules: Any, paces: Any, state: Any, used: Any, begin: int, end: int, moves: float) -> None:
    """MACs `begin` to `end` of an operand beside `moves` cycles of moves; then the barrier."""
    ahead = rules.window - 1
    visible = state[_BARRIER]  # when the window first shows the moves, which stand behind the MACs
    index = begin
    stuck = 0.0
    while index < end:
        if shape.level == BUFFER:
            turn = index % (rules.slots * shape.columns)
            slot = turn % rules.slots
            count = (rules.slots if turn < rules.slots else rules.slots * shape.columns) - turn
            new_row = turn == 0
        else:
            slot = 0 if shape.level == BANK else index // shape.columns % shape.banks
            count = shape.columns - index % shape.columns
            new_row = index % shape.columns == 0
        count = min(count, end - index)
        if new_row:
            # the window shows the row's first MAC this long before its turn
            ready = max(_earlier(state, paces, ahead), state[_MOVE] - ahead * paces.move, 1.0)
            state[_OPENING] = paces.opening
            if used[slot, 0] > _LONG_AGO:
                ready = max(ready, used[slot, 0] + rules.rtp, used[slot, 1] + rules.ras) + rules.rp
                state[_OPENING] = paces.reopening
            opened = max(ready, state[_OPENED] + state[_OPENING])
            used[slot, 1] = opened
            state[_OPENED] = opened
            state[_READY] = opened + rules.rcd
        first = max(state[_MAC] + paces.mac, state[_BARRIER])
        if shape.level == BUFFER:
            last = first + (count - 1) * paces.mac
            if turn < rules.slots:  # the rows of a sweep open one after the other; MACs to open rows overtake
                opened = state[_READY] - rules.rcd + turn * state[_OPENING]
                for touched in range(turn, turn + count):
                    used[touched, 1] = opened
                    opened += state[_OPENING]
                state[_OPENED] = opened - state[_OPENING]
                stuck = state[_OPENED] + rules.rcd
                last = max(last, stuck - ahead * paces.mac)
            for touched in range(max(0, count - rules.slots), count):
                place = (turn + touched) % rules.slots
                used[place, 0] = max(last - (count - 1 - touched) * paces.mac, used[place, 1] + rules.rcd)
        else:
            first = max(first, state[_READY])
            last = first + (count - 1) * paces.mac
            used[slot, 0] = last
        state[_RUN_BEFORE], state[_LAST_BEFORE], state[_COUNT_BEFORE] = state[_RUN], state[_MAC], state[_COUNT]
        state[_RUN], state[_COUNT] = first, count
        showing = end - ahead
        if index <= showing < index + count:
            visible = max(visible, first + (showing - index) * paces.mac)
        state[_MAC] = last
        index += count
    state[_MAC] = max(state[_MAC], stuck)
    done = state[_MAC]
    if moves > 0:
        start = max(state[_MOVE], visible)
        state[_MOVE] = start + moves
        done = max(done, state[_MOVE] - paces.move)
    state[_BARRIER] = done + 1
