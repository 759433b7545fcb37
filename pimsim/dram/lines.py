"""Lines of numbers: bytes of a CSV to integers, in compiled code."""

from __future__ import annotations

from typing import Any

from pimsim.compiled import kernel

NEWLINE, RETURN, COMMA, SPACE, ZERO, NINE = 10, 13, 44, 32, 48, 57
READ_LETTER, WRITE_LETTER, HEX_LETTER = 82, 87, 120
LOWER = 32  # what makes a letter lower case
MOST = (1 << 62) // 16  # a number may grow by a digit from here


def _parse(text: Any, length: int, op_column: int, numbers: Any) -> tuple[int, int, int]:
    """Read the numbers of all whole lines in text[:length], a row of the result each.

    In `op_column` R is 0 and W is 1, of either case; numbers are decimal, or hexadecimal after 0x. Returns the number
    of rows, where the next line begins, and the column (from 1) that is wrong in the line behind the rows: -1 if it has
    too few or too many, 0 if nothing is wrong.
    """
    columns = numbers.shape[1]
    row = 0
    begin = 0
    while row < len(numbers):
        place = begin
        column = 0
        while True:
            while place < length and text[place] == SPACE:
                place += 1
            if column == op_column:
                if place < length and (text[place] | LOWER) == READ_LETTER | LOWER:
                    numbers[row, column] = 0
                elif place < length and (text[place] | LOWER) == WRITE_LETTER | LOWER:
                    numbers[row, column] = 1
                elif place < length:
                    return row, begin, column + 1
                place += 1
            else:
                value = 0
                digits = 0
                base = 10
                if place + 1 < length and text[place] == ZERO and (text[place + 1] | LOWER) == HEX_LETTER:
                    base = 16
                    place += 2
                while place < length:
                    digit = int(text[place]) - ZERO
                    if digit > 9:
                        digit = (int(text[place]) | LOWER) - 87
                        if digit < 10:
                            break
                    if digit < 0 or digit >= base:
                        break
                    value = value * base + digit
                    digits += 1
                    place += 1
                    if value > MOST:
                        return row, begin, column + 1
                if digits == 0 and place < length:
                    return row, begin, column + 1
                numbers[row, column] = value
            while place < length and (text[place] == SPACE or text[place] == RETURN):
                place += 1
            if place >= length:
                return row, begin, 0  # the line goes on in the next piece
            column += 1
            if text[place] == NEWLINE:
                if column != columns:
                    return row, begin, -1
                break
            if text[place] != COMMA:
                return row, begin, column
            if column == columns:
                return row, begin, -1
            place += 1
        begin = place + 1
        row += 1
    return row, begin, 0


parse = kernel(_parse)
