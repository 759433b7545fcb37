"""CSV rows: the cells of each row of a CSV file, where a stray quotation mark spoils no row but its own."""

from __future__ import annotations

import collections
import csv
import sys
from collections.abc import Iterator
from typing import IO

MOST_KEPT = 1 << 24  # characters of a row that are kept to be read again should its quotation marks not pair


def csv_rows(file: IO[str], separator: str) -> Iterator[tuple[int, list[str] | None]]:
    """The line that each row begins on, and its cells; None if its quotation marks do not pair.

    Blank lines are left out. Behind a row of several lines that is wrong, the next one is looked for from its second
    line on: what begins with a mark that is never closed seems to go on to the end of the file.
    """
    csv.field_size_limit(sys.maxsize)  # texts are longer than the 128 KiB that it begins with
    lines = _Lines(file)
    rows = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        place = lines.begin_row()
        cells: list[str] | None
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error:
            cells = _lenient(lines.row, separator)
            lines.take_back()
        if cells is None or cells:
            yield place, cells


def _lenient(row: list[str], separator: str) -> list[str] | None:
    """The cells of a row of one line that has marks within its cells, as in `1,"he said "no" twice"`, if they pair."""
    if len(row) != 1 or row[0].count('"') % 2:
        return None
    *cells, last = next(csv.reader([row[0].rstrip("\r\n") + separator + "."], delimiter=separator))
    # else a mark is still open behind the line, or the cell with the stray one goes on in the next
    return cells if last == "." and any(cell.endswith('"') for cell in cells) else None


class _Lines:
    """The lines of a file. Those of the current row are kept, to be read again."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._again: collections.deque[str] = collections.deque()
        self._number = 0  # of the line that was read last
        self._kept = 0  # characters in `row`
        self.row: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file)
        self._number += 1
        self._kept += len(line)
        if self._kept <= MOST_KEPT:
            self.row.append(line)
        else:
            self.row.clear()
        return line

    def begin_row(self) -> int:
        """Forgets the last row; the number of the next line."""
        self.row.clear()
        self._kept = 0
        return self._number + 1

    def take_back(self) -> None:
        """Gives all lines of the row but the first once more."""
        again = self.row[1:]
        self._again.extendleft(reversed(again))
        self._number -= len(again)
