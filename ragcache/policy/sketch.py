"""FrequencySketch: how often each path was asked for lately, in four bits and approximately (TinyLFU, section 3)."""

from __future__ import annotations

_ROWS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_WORD = 2**64 - 1
_MOST = 15
_SAMPLE = 10  # uses that are remembered for each column


class FrequencySketch:
    """A count-min sketch: never below the true count since the last ageing, above it where paths collide.

    Counts end at 15. The number of columns is a power of two.
    """

    def __init__(self, columns: int = 1024) -> None:
        self._bits = columns.bit_length() - 1
        self._rows = [bytearray(1 << self._bits) for _ in _ROWS]
        self._uses = 0

    def add(self, path_key: int) -> None:
        """Counts a use of the path."""
        low = _WORD >> (64 - self._bits)
        for row, odd in zip(self._rows, _ROWS, strict=True):
            column = ((path_key * odd & _WORD) >> 32) & low
            if row[column] < _MOST:
                row[column] += 1
        self._uses += 1
        if self._uses >= _SAMPLE << self._bits:
            self._age()

    def count(self, path_key: int) -> int:
        """The estimated number of uses of the path, 15 at most."""
        low = _WORD >> (64 - self._bits)
        return min(row[((path_key * odd & _WORD) >> 32) & low] for row, odd in zip(self._rows, _ROWS, strict=True))

    def grow(self, nodes: int) -> None:
        """Doubles the columns until there is one for each node. The new ones start as copies, so no use is lost."""
        while nodes > 1 << self._bits and self._bits < 32:
            self._rows = [row + row for row in self._rows]
            self._bits += 1

    def _age(self) -> None:
        # Reset: once the sample is full, every counter and the sample's size are halved
        self._rows = [row.translate(_HALVES) for row in self._rows]
        self._uses //= 2


_HALVES = bytes(value // 2 for value in range(256))
