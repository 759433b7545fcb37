"""Line ends: a file of JSON lines whose lines end as on old Macs, read as if they ended as elsewhere."""

from __future__ import annotations

import re
from typing import Protocol

# between rows: JSON has no such byte in its strings, but may have one between its values
_OLD_MAC = re.compile(rb"\}[ \t]*+\r[ \t\r]*+(?:\xef\xbb\xbf)?\{")
_END = re.compile(rb"\r\n?|\n")


class ReadsLines(Protocol):
    """Bytes that can be read by lines, or by less."""

    def readline(self, size: int = -1, /) -> bytes:
        """The rest of the line, with its end, but about `size` bytes at most."""


def ends_as_on_old_macs(line: bytes) -> bool:
    """Whether a line, or the beginning of one, is several rows with "\\r" between them."""
    return b"\r" in line and _OLD_MAC.search(line) is not None


class OldMacLines:
    """The lines of a file, of which the first bytes are read already; each ends with "\\n"."""

    def __init__(self, first: bytes, file: ReadsLines) -> None:
        self._read = first
        self._next = 0  # where in it the rest begins
        self._file = file

    def readline(self, size: int = -1, /) -> bytes:
        while (end := _END.search(self._read, self._next)) is None and len(self._read) - self._next < size:
            more = self._file.readline(size)
            if not more:
                break
            self._read = self._read[self._next :] + more
            self._next = 0
        start = self._next
        if end is not None and end.start() - start < size:
            self._next = end.end()
            return self._read[start : end.start()] + b"\n"
        self._next = min(start + size, len(self._read))
        return self._read[start : self._next]
