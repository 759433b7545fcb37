"""Command stream: the requests to one channel, in order, with the barriers between dependent steps (AttAcc).

A stream is four arrays of equal length, one entry a request: its kind, and which bank slot, row and column (MAC, write)
or bank group (moves) it means. A *slot* is what one command addresses: all banks of the channel (bank level), the bank
of that number in every bank group (bank-group level), or one bank in every pseudo channel (buffer level).

The schedule is AttAcc's: two jobs (a KV head of a request) at a time, so that moving and softmax of one run beside the
MACs of the other; a job that is left over runs alone, its softmax exposed.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pimsim.compiled import kernel, part

# what a request is; the names are AttAcc's commands
MAC, WR_GB, MV_SB, SFM, MV_GB, BARRIER, WRITE = range(7)
BANK, BANK_GROUP, BUFFER = range(3)


class Stream(NamedTuple):
    """Requests of one channel, in order: arrays of one length."""

    kind: NDArray[np.int8]
    slot: NDArray[np.int16]  # MAC, WRITE: the bank slot; moves: the bank group (counted over the stack IDs)
    row: NDArray[np.int32]
    column: NDArray[np.int16]


class Shape(NamedTuple):
    """Sizes of one job on one channel, as `mapping.attention_shape` counts them; all are numbers of commands."""

    level: int  # BANK, BANK_GROUP or BUFFER
    banks: int  # banks a bank group
    bank_groups: int
    stack_ids: int
    columns: int  # columns a row
    score_outputs: int  # scores a unit computes
    score_macs: int  # MACs for each of them
    context_outputs: int  # columns of the context a unit computes
    context_macs: int
    outputs_per_move: int  # scores that fill one move to the softmax buffer
    loads: int  # moves of the query into the global buffer
    score_moves: int  # moves of one full block of scores
    context_moves: int  # moves of one column of the context
    probability_moves: int  # moves of the probabilities into the GEMV buffers
    vectors: int  # query vectors that share one read of K and V


@part
def _place(shape: Any, index: int, first_row: int) -> tuple[int, int, int]:
    """Slot, row and column of the `index`-th MAC of an operand that begins at `first_row` of slot 0."""
    if shape.level == BANK:
        return 0, first_row + index // shape.columns, index % shape.columns
    if (
        shape.level == BANK_GROUP
    ):  # a row of one bank, then the next bank: its activation hides behind the MACs of this one
        rows = index // shape.columns
        return rows % shape.banks, first_row + rows // shape.banks, index % shape.columns
    # every bank group in turn, as reads of one group are tCCD_L apart; then the banks, then the columns
    groups = shape.bank_groups * shape.stack_ids
    turn = index // groups
    sweep = turn // shape.banks
    slot = (index % groups) * shape.banks + turn % shape.banks
    return slot, first_row + sweep // shape.columns, sweep % shape.columns


@part
def _put(out: Any, place: int, kind: int, slot: int) -> int:
    out[0][place] = kind
    out[1][place] = slot
    return place + 1


@part
def _macs(out: Any, place: int, shape: Any, first_row: int, begin: int, end: int) -> int:
    for index in range(begin, end):
        slot, row, column = _place(shape, index, first_row)
        out[0][place] = MAC
        out[1][place] = slot
        out[2][place] = row
        out[3][place] = column
        place += 1
    return place


@part
def _moves(out: Any, place: int, shape: Any, kind: int, begin: int, end: int) -> int:
    """Moves `begin` to `end` of one kind, each to the bank group that the level's data path gives it."""
    groups = shape.bank_groups * shape.stack_ids
    for index in range(begin, end):
        group = 0
        if shape.level != BUFFER:
            if kind == MV_SB:  # scores leave every bank group in turn, the stack IDs alternate
                turn = index % groups
                group = (turn % shape.stack_ids) * shape.bank_groups + turn // shape.stack_ids
            elif kind == MV_GB:  # probabilities: a run for each bank group
                group = index * groups // shape.probability_moves
        place = _put(out, place, kind, group)
    return place


@part
def _context_moves(out: Any, place: int, shape: Any, count: int) -> int:
    for index in range(count):
        group = 0 if shape.level == BUFFER else (index % shape.stack_ids) * shape.bank_groups
        place = _put(out, place, MV_SB, group)
    return place


@part
def _share(total: int, part: int, parts: int) -> int:
    """How many of `total` come before part number `part` of `parts`, if they are spread evenly."""
    return total * part // parts


@part
def _score(out: Any, place: int, shape: Any, first_row: int, loads: int, softmax: int) -> int:
    """The scores of one job in blocks; beside them the other job's query (`loads`) or its softmax and probabilities."""
    size = shape.outputs_per_move
    blocks = (shape.score_outputs + size - 1) // size
    late = blocks // 2  # probabilities are there when half of the blocks have passed
    probabilities = shape.probability_moves * shape.vectors
    for block in range(blocks):
        begin = block * size * shape.score_macs
        end = min((block + 1) * size, shape.score_outputs) * shape.score_macs
        place = _macs(out, place, shape, first_row, begin, end)
        if block > 0:
            place = _moves(out, place, shape, MV_SB, 0, shape.score_moves * shape.vectors)
        if loads:
            count = shape.loads * shape.vectors
            place = _moves(out, place, shape, WR_GB, _share(count, block, blocks), _share(count, block + 1, blocks))
        if softmax:
            if block == 0:
                for _ in range(shape.vectors):
                    place = _put(out, place, SFM, 0)
            if block >= late:
                done = _share(probabilities, block - late, blocks - late)
                todo = _share(probabilities, block - late + 1, blocks - late)
                place = _probabilities(out, place, shape, done, todo)
        place = _put(out, place, BARRIER, 0)
    return _moves(out, place, shape, MV_SB, 0, shape.score_moves * shape.vectors)


@part
def _probabilities(out: Any, place: int, shape: Any, begin: int, end: int) -> int:
    for index in range(begin, end):
        place = _moves(out, place, shape, MV_GB, index % shape.probability_moves, index % shape.probability_moves + 1)
    return place


@part
def _context(out: Any, place: int, shape: Any, first_row: int, softmax: int) -> int:
    """The context of one job, a column at a time; beside it the softmax and the probabilities of the other."""
    late = shape.context_outputs // 2
    probabilities = shape.probability_moves * shape.vectors
    for block in range(shape.context_outputs):
        place = _macs(out, place, shape, first_row, block * shape.context_macs, (block + 1) * shape.context_macs)
        if block > 0:
            place = _context_moves(out, place, shape, shape.context_moves * shape.vectors)
        if softmax:
            if block == 0:
                for _ in range(shape.vectors):
                    place = _put(out, place, SFM, 0)
            if block >= late:
                parts = shape.context_outputs - late
                done = _share(probabilities, block - late, parts)
                place = _probabilities(out, place, shape, done, _share(probabilities, block - late + 1, parts))
        place = _put(out, place, BARRIER, 0)
    return _context_moves(out, place, shape, shape.context_moves * shape.vectors)


@kernel
def _fill_attention(out: Any, shape: Any, jobs: int, operand_rows: int) -> int:
    place = 0
    for job in range(0, jobs, 2):
        key, value = 2 * job * operand_rows, (2 * job + 1) * operand_rows
        place = _moves(out, place, shape, WR_GB, 0, shape.loads * shape.vectors)
        place = _put(out, place, BARRIER, 0)
        if job + 1 < jobs:
            second_key, second_value = key + 2 * operand_rows, value + 2 * operand_rows
            place = _score(out, place, shape, key, 1, 0)
            place = _score(out, place, shape, second_key, 0, 1)
            place = _context(out, place, shape, value, 1)
            place = _context(out, place, shape, second_value, 0)
        else:
            place = _score(out, place, shape, key, 0, 0)
            for _ in range(shape.vectors):
                place = _put(out, place, SFM, 0)
            place = _probabilities(out, place, shape, 0, shape.probability_moves * shape.vectors)
            place = _put(out, place, BARRIER, 0)
            place = _context(out, place, shape, value, 0)
    return place


@kernel
def _fill_product(out: Any, shape: Any, chunks: int, operand_rows: int) -> int:
    place = _moves(out, 0, shape, WR_GB, 0, shape.loads * shape.vectors)
    place = _put(out, place, BARRIER, 0)
    for chunk in range(chunks):
        place = _score(out, place, shape, chunk * operand_rows, 1 if chunk + 1 < chunks else 0, 0)
    return place


def rows_per_operand(shape: Shape) -> int:
    """Rows that K, or V, of one job takes in its slots."""
    slots = (1, shape.banks, shape.banks * shape.bank_groups * shape.stack_ids)[shape.level]
    macs = max(shape.score_outputs * shape.score_macs, shape.context_outputs * shape.context_macs)
    return -(-macs // (slots * shape.columns))


def attention_stream(shape: Shape, jobs: int) -> Stream:
    """The requests of a channel that serves `jobs` jobs one after the other: QKᵀ, softmax, AV."""
    blocks = -(-shape.score_outputs // shape.outputs_per_move)
    macs = shape.score_outputs * shape.score_macs + shape.context_outputs * shape.context_macs
    moves = shape.loads + shape.score_moves * blocks + 1 + shape.probability_moves
    moves += shape.context_moves * shape.context_outputs
    barriers = blocks + shape.context_outputs + 2
    size = jobs * (macs + moves * shape.vectors + barriers)
    out = _empty(size)
    length = _fill_attention(out, shape, jobs, rows_per_operand(shape))
    return _first(out, length)


def product_stream(shape: Shape, chunks: int) -> Stream:
    """The requests of a channel that multiplies its part of a matrix with vectors, whose inputs come in `chunks`."""
    blocks = -(-shape.score_outputs // shape.outputs_per_move)
    moves = (shape.loads + shape.score_moves * blocks) * shape.vectors
    out = _empty(chunks * (shape.score_outputs * shape.score_macs + moves + blocks) + 1)
    length = _fill_product(out, shape, chunks, rows_per_operand(shape))
    return _first(out, length)


def writes_stream(slots: NDArray[np.int16], rows: NDArray[np.int32], columns: NDArray[np.int16]) -> Stream:
    """Writes of a channel, in order, each of one column of one bank."""
    return Stream(np.full(slots.size, WRITE, np.int8), slots, rows, columns)


def _first(out: Stream, length: int) -> Stream:
    return Stream(out.kind[:length], out.slot[:length], out.row[:length], out.column[:length])


def _empty(size: int) -> Stream:
    return Stream(np.empty(size, np.int8), np.empty(size, np.int16), np.zeros(size, np.int32), np.zeros(size, np.int16))
