"""CSV rows: the cells of each row of a CSV or TSV file, where a stray quotation mark spoils no row but its own."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import IO

LONGEST_CELL = 1 << 28  # characters, of four bytes in memory; what seems to be longer begins with a mark left open
_LONE_MARK = re.compile(r'(?<!["\\])"(?!")')  # neither doubled nor behind a backslash
_WRITTEN_MARK = re.compile(r'""|\\"')


def csv_rows(file: IO[str], separator: str) -> Iterator[tuple[int, list[str] | None]]:
    """The line that each row begins on, and its cells; None if its quotation marks do not pair.

    Blank lines are left out. Behind a row of several lines that is wrong, the next one is looked for from its second
    line on: what begins with a mark that is never closed seems to go on to the end of the file. Where tabs separate
    the cells, marks that do not enclose a whole cell are text, as most programs that write such files mean them.
    """
    csv.field_size_limit(LONGEST_CELL)
    lines = _Lines(file)
    rows = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        place = lines.number + 1
        try:
            cells = _row(rows, lines, separator)
        except StopIteration:
            return
        if cells is None or cells:
            yield place, cells


def _row(rows: Iterator[list[str]], lines: _Lines, separator: str) -> list[str] | None:
    lines.begin_row()
    try:
        cells = next(rows)
        # a program that quotes cells writes no tabs in them; these are marks at the ends of two rows
        if separator != "\t" or lines.in_row == 1 or not any(separator in cell for cell in cells):
            return cells
    except csv.Error:
        pass
    lines.take_back()
    return _cells(lines.first, separator)


def _cells(line: str, separator: str) -> list[str] | None:
    """The cells of a line with marks within its cells, as in `1,"he said "no" twice"`; None if they do not pair."""
    line = line.rstrip("\r\n") + separator
    pattern = _cell(separator)
    cells = []
    end = 0
    while end < len(line):
        match = pattern.match(line, end)
        cell = match and _unquoted(match)
        if match is None or cell is None:
            return None
        cells.append(cell)
        end = match.end()
    return cells


def _cell(separator: str) -> re.Pattern[str]:
    """What matches a cell and the separator behind it: quoted, with its closing mark, or else as it is."""
    if separator == "\t":
        return re.compile(r'"(?P<quoted>(?:[^"\t]++|"")*+")\t|(?P<plain>[^\t]*+)\t')
    end = re.escape(separator)
    return re.compile(rf'"(?P<quoted>(?:[^"\\]++|\\[\\"]?|"++(?!{end}))*+"++){end}|(?!")(?P<plain>[^{end}]*+){end}')


def _unquoted(cell: re.Match[str]) -> str | None:
    """The text of a cell with its inner marks; None if these enclose no words, and may be the ends of two cells."""
    plain, quoted = cell["plain"], cell["quoted"]
    if plain is not None:
        return plain
    parts = _LONE_MARK.split(quoted[:-1])
    if len(parts) % 2 == 0 or any(part != part.strip() or not part for part in parts[1::2]):
        return None
    return _WRITTEN_MARK.sub('"', quoted[:-1])


class _Lines:
    """The lines of a file, of which those of the last row behind its first can be read again."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._second = 0  # where in the file the second line of the row begins
        self.number = 0  # of the line that was read last
        self.in_row = 0
        self.first = ""  # line of the row

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.in_row == 1:
            self._second = self._file.tell()
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.number += 1
        self.in_row += 1
        if self.in_row == 1:
            self.first = line
        return line

    def begin_row(self) -> None:
        self.in_row = 0

    def take_back(self) -> None:
        """Gives all lines of the row but the first once more."""
        if self.in_row > 1:
            self._file.seek(self._second)
            self.number -= self.in_row - 1
