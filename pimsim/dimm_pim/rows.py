"""Rows: a traversal's CSV lines to numbers, compiled; the first line that is wrong is named."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pimsim.compiled import kernel, part

LIMIT = 1 << 31  # of every number
_RANK = 4  # the one that may be empty
_FINE, _FIELDS, _NOT_A_NUMBER, _NEGATIVE, _TOO_LARGE, _NO_KIND = range(6)
_WHAT = {
    _FIELDS: "has {found} fields, the header {expected}",
    _NOT_A_NUMBER: "{text!r} is not a whole number",
    _NEGATIVE: "{text!r} is negative; queries, hops, vertices and ranks count from 0",
    _TOO_LARGE: "{text!r} is too large; numbers stay below 2^31",
    _NO_KIND: "kind {text!r} is unknown; it is vector, list or upper",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """The first line that cannot be read, counted from 1, and why."""

    line: int
    what: str


def parse(text: bytes, start: int, line: int, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, Problem | None]:
    """Read query, hop, vertex, kind and rank of each row: int64 [5, rows], the line of each row [rows], and the first
    problem.

    Rows begin at byte `start`, which is line `line`; `columns` says which of the five each field is. A rank that is
    empty, or has no column, is -1. Blank lines are skipped.
    """
    data = np.frombuffer(text, np.uint8)
    most = int(np.count_nonzero(data[start:] == ord("\n"))) + 1
    table, lines = np.zeros((5, most), np.int64), np.empty(most, np.int64)
    table[_RANK] = -1
    count, code, wrong, first, last, value = _parse(data, start, line, columns, table, lines)
    problem = None
    if code != _FINE:
        field = text[first:last].decode(errors="replace")[:40]
        problem = Problem(int(wrong), _WHAT[int(code)].format(text=field, found=value, expected=len(columns)))
    return table[:, :count], lines[:count], problem


@kernel
def _parse(text: Any, cursor: Any, line: Any, columns: Any, table: Any, lines: Any) -> Any:
    """Returns rows, code, line, and bytes and number of the field that is wrong."""
    count, end = 0, text.shape[0]
    while cursor < end:
        stop = cursor
        while stop < end and text[stop] != 10:
            stop += 1
        last = stop
        while last > cursor and (text[last - 1] == 13 or text[last - 1] == 32):
            last -= 1
        if last > cursor:
            lines[count] = line
            field, first = 0, cursor
            for place in range(cursor, last + 1):
                if place < last and text[place] != 44:
                    continue
                if field < columns.shape[0] and (columns[field] != 4 or place > first):
                    code, value = _number(text, first, place) if columns[field] != 3 else _kind(text, first, place)
                    if code != 0:
                        return count, code, line, first, place, field
                    table[columns[field], count] = value
                field += 1
                first = place + 1
            if field != columns.shape[0]:
                return count, 1, line, cursor, last, field
            count += 1
        cursor = stop + 1
        line += 1
    return count, 0, line, 0, 0, 0


@part
def _number(text: Any, first: Any, last: Any) -> Any:
    if first < last and text[first] == 45:
        return 3, 0
    if first == last:
        return 2, 0
    value = np.int64(0)
    for place in range(first, last):
        digit = np.int64(text[place]) - 48
        if digit < 0 or digit > 9:
            return 2, 0
        value = value * 10 + digit
        if value >= 1 << 31:
            return 4, 0
    return 0, value


@part
def _kind(text: Any, first: Any, last: Any) -> Any:
    length = last - first
    if length == 6 and text[first] == 118:  # vector
        for place, letter in enumerate((118, 101, 99, 116, 111, 114)):
            if text[first + place] != letter:
                return 5, 0
        return 0, 0
    if length == 4 and text[first] == 108:  # list
        for place, letter in enumerate((108, 105, 115, 116)):
            if text[first + place] != letter:
                return 5, 0
        return 0, 1
    if length == 5 and text[first] == 117:  # upper
        for place, letter in enumerate((117, 112, 112, 101, 114)):
            if text[first + place] != letter:
                return 5, 0
        return 0, 2
    return 5, 0
