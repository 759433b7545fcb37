"""Lines of numbers: bytes of a CSV to integers, in compiled code."""

from __future__ import annotations

from typing import Any

from pimsim.compiled import kernel

NEWLINE, RETURN, COMMA, SPACE, ZERO, NINE = 10, 13, 44, 32, 48, 57
READ_LETTER, WRITE_LETTER, HEX_LETTER = 82, 87, 120
LOWER = 32  # what makes a letter lower case
MOST = (1 << 62) // 16  # a number may grow by a digit from here


def _parse(text: Any, length: int, op_column: int, numbers: Any) -> tuple[int, int, int]:
    """Numbers of the whole lines in text[:length], a row each; in `op_column` R is 0 and W is 1, of either case.

    Returns how many rows, where the next line begins, and the column (from 1) that is wrong in the line after the
    rows: -1 where it has too few or too many; 0 where nothing is wrong. Decimal, or hexadecimal after 0x.
    """
    columns = numbers.shape[1]
    row = 0
    begin = 0
    while row < len(numbers):
        at = begin
        column = 0
        while True:
            while at < length and text[at] == SPACE:
                at += 1
            if column == op_column:
                if at < length and (text[at] | LOWER) == READ_LETTER | LOWER:
                    numbers[row, column] = 0
                elif at < length and (text[at] | LOWER) == WRITE_LETTER | LOWER:
                    numbers[row, column] = 1
                elif at < length:
                    return row, begin, column + 1
                at += 1
            else:
                value = 0
                digits = 0
                base = 10
                if at + 1 < length and text[at] == ZERO and (text[at + 1] | LOWER) == HEX_LETTER:
                    base = 16
                    at += 2
                while at < length:
                    digit = int(text[at]) - ZERO
                    if digit > 9:
                        digit = (int(text[at]) | LOWER) - 87
                        if digit < 10:
                            break
                    if digit < 0 or digit >= base:
                        break
                    value = value * base + digit
                    digits += 1
                    at += 1
                    if value > MOST:
                        return row, begin, column + 1
                if digits == 0 and at < length:
                    return row, begin, column + 1
                numbers[row, column] = value
            while at < length and (text[at] == SPACE or text[at] == RETURN):
                at += 1
            if at >= length:
                return row, begin, 0  # the line goes on in the next piece
            column += 1
            if text[at] == NEWLINE:
                if column != columns:
                    return row, begin, -1
                break
            if text[at] != COMMA:
                return row, begin, column
            if column == columns:
                return row, begin, -1
            at += 1
        begin = at + 1
        row += 1
    return row, begin, 0


parse = kernel(_parse)
