"""Trace: requests to DRAM in the order in which they come, and how a file of them is read."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pimsim.dram import lines
from pimsim.dram.mapping import PARTS, AddressMapping
from pimsim.errors import TraceError
from pimsim.standard import Organisation

PLACES = ("cycle", "op", "channel", "rank", "bg", "bank", "row", "col")  # the header of a trace of places
ADDRESSES = ("cycle", "op", "address")  # the header of a trace of linear addresses
COLUMNS = ("cycle", "write", *PARTS)
PIECE = 1 << 22  # bytes read at a time
SHORTEST = 6  # bytes of a line: three numbers, two commas, its end
GZIP_MAGIC = b"\x1f\x8b"
MOST_REQUESTS = 1 << 31
MOST_CYCLES = 1 << 48  # three days at 1 GHz


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in the order in which they come: arrays of one length.

    `cycle` never falls; `write` is 0 or 1; `column` counts bursts in a row.
    """

    cycle: NDArray[np.int64]
    write: NDArray[np.uint8]
    channel: NDArray[np.int32]  # pseudo channels of all channels, counted through
    rank: NDArray[np.int32]
    bank_group: NDArray[np.int32]
    bank: NDArray[np.int32]  # within its bank group
    row: NDArray[np.int32]
    column: NDArray[np.int32]
    source: str = "trace"  # for messages

    def __len__(self) -> int:
        return len(self.cycle)

    @classmethod
    def of(
        cls,
        *,
        cycle: Any = 0,
        write: Any = 0,
        channel: Any = 0,
        rank: Any = 0,
        bank_group: Any = 0,
        bank: Any = 0,
        row: Any = 0,
        column: Any = 0,
        source: str = "trace",
    ) -> Trace:
        """A trace of arrays, or of numbers that hold for all requests. TraceError for what is not a whole number in
        range.
        """
        given = np.broadcast_arrays(cycle, write, channel, rank, bank_group, bank, row, column)
        types = (np.int64, np.uint8, *[np.int32] * 6)
        arrays: list[NDArray[Any]] = []
        for name, kind, values in zip(COLUMNS, types, given, strict=True):
            if values.dtype.kind not in "iub":
                raise TraceError(f"{source}: {name} must be whole numbers, not {values.dtype}")
            array = np.ascontiguousarray(np.atleast_1d(values).astype(kind))
            if not np.array_equal(array, np.atleast_1d(values)):
                raise TraceError(f"{source}: {name} has a number that is too large or below 0")
            arrays.append(array)
        return cls(**dict(zip(COLUMNS, arrays, strict=True)), source=source)

    @classmethod
    def read(
        cls, path: str | Path, organisation: Organisation | None = None, mapping: AddressMapping | None = None
    ) -> Trace:
        """Read a CSV file, plain or gzipped, with the header `PLACES`, or `ADDRESSES` if organisation and mapping are
        given.

        TraceError says which line is wrong, by its number from 1, or that the file ends too early.
        """
        where = str(path)
        try:
            with open_plain(Path(path)) as file:
                return _read(file, where, organisation, mapping)
        except EOFError as error:
            raise TraceError(f"{where}: the gzipped file is truncated: copy it again") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise TraceError(f"{where}: the gzipped file is damaged: {error}") from error
        except OSError as error:
            raise TraceError(f"cannot read the trace {where}: {error.strerror or error}") from error

    def check(self, organisation: Organisation) -> None:
        """TraceError, with the line, for the first request that is out of order or names what `organisation` does not
        have.
        """
        if not len(self):
            raise TraceError(f"{self.source}: the trace is empty: there must be one request at least")
        limits = (
            ("channel", self.channel, organisation.channels * organisation.pseudo_channels),
            ("rank", self.rank, organisation.ranks),
            ("bg", self.bank_group, organisation.bank_groups),
            ("bank", self.bank, organisation.banks),
            ("row", self.row, organisation.rows),
            ("col", self.column, organisation.columns),
            ("cycle", self.cycle, MOST_CYCLES),
        )
        for name, values, limit in limits:
            if int(values.max()) >= limit or int(values.min()) < 0:
                first = int(np.argmax((values >= limit) | (values < 0)))
                raise TraceError(f"{self.line_of(first)}: {name} {values[first]} is out of range: 0 to {limit - 1}")
        if int(self.write.max()) > 1:
            raise TraceError(f"{self.line_of(int(np.argmax(self.write > 1)))}: write must be 0 or 1")
        if len(self) > MOST_REQUESTS:
            raise TraceError(f"{self.source}: more than {MOST_REQUESTS} requests: cut the trace")
        falls = self.cycle[1:] < self.cycle[:-1]
        if falls.any():
            first = int(np.argmax(falls)) + 1
            raise TraceError(
                f"{self.line_of(first)}: cycle {self.cycle[first]} comes after {self.cycle[first - 1]}: sort the trace"
            )

    def line_of(self, request: int) -> str:
        """File and line of a request, for messages; the header is line 1."""
        return f"{self.source}:{request + 2}"

    def flat_bank(self, organisation: Organisation) -> NDArray[np.int32]:
        """Rank, bank group and bank of each request in one number, int32."""
        return (self.rank * organisation.bank_groups + self.bank_group) * organisation.banks + self.bank

    def where(self, chosen: NDArray[Any]) -> Trace:
        """The requests that a mask or indices choose, in their order."""
        return Trace(**{name: getattr(self, name)[chosen] for name in COLUMNS}, source=self.source)


def open_plain(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked if it is gzipped, whatever its name says."""
    file = path.open("rb")
    if file.peek(2)[:2] == GZIP_MAGIC:
        return gzip.open(file, "rb")  # type: ignore[return-value]
    return file


def pieces(file: IO[bytes]) -> Iterator[bytes]:
    """The file in pieces; its last line ends in a newline even if it does not in the file."""
    last = b"\n"
    while piece := file.read(PIECE):
        yield piece
        last = piece
    if not last.endswith(b"\n"):
        yield b"\n"


def _read(file: IO[bytes], where: str, organisation: Organisation | None, mapping: AddressMapping | None) -> Trace:
    header = tuple(name.strip() for name in file.readline(1 << 12).decode("utf-8", "replace").lower().split(","))
    if header == ("",):
        raise TraceError(f"{where}: the trace is empty: its first line must be {','.join(PLACES)}")
    if header not in (PLACES, ADDRESSES):
        raise TraceError(f"{where}:1: the header must be {','.join(PLACES)} or {','.join(ADDRESSES)}")
    if header == ADDRESSES and (organisation is None or mapping is None):
        raise TraceError(f"{where}:1: a trace of addresses needs an address mapping (--mapping)")
    parts: list[list[NDArray[Any]]] = [[] for _ in header]
    rows = 0
    left = b""
    for piece in pieces(file):
        text = np.frombuffer(left + piece, np.uint8)
        numbers = np.empty((len(text) // SHORTEST + 1, len(header)), np.int64)
        count, begin, wrong = lines.parse(text, len(text), 1, numbers)
        left = text[begin:].tobytes()
        if wrong:
            _refuse(where, header, rows + count + 2, wrong, left, file)
        rows += count
        for name, column, values in zip(header, parts, numbers[:count].T, strict=True):
            kind = {"cycle": np.int64, "op": np.uint8, "address": np.int64}.get(name, np.int32)
            if kind is np.int32 and count and int(values.max()) >= 1 << 31:
                line = rows - count + int(np.argmax(values)) + 2
                raise TraceError(f"{where}:{line}: {name} {values.max()} is out of range")
            column.append(values.astype(kind))
    if not rows:
        raise TraceError(f"{where}: the trace is empty: there is a header and no request")
    columns = [np.concatenate(column) for column in parts]
    if header == PLACES:
        return Trace(**dict(zip(COLUMNS, columns, strict=True)), source=where)
    assert organisation is not None
    assert mapping is not None
    address = columns[2]
    if int(address.max()) >= organisation.bytes:
        first = int(np.argmax(address >= organisation.bytes))
        raise TraceError(
            f"{where}:{first + 2}: address {address[first]} is out of range: 0 to {organisation.bytes - 1}"
        )
    places = mapping.locate(address, organisation)
    return Trace.of(cycle=columns[0], write=columns[1], **places, source=where)


def _refuse(where: str, header: tuple[str, ...], line: int, wrong: int, left: bytes, file: IO[bytes]) -> None:
    """TraceError for the line at which `left` begins; an empty line is refused unless all that follow are empty."""
    text = left.split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    if not text and not left.strip() and not file.read().strip():
        return
    shown = text if len(text) <= 60 else f"{text[:60]}…"
    if wrong < 0 or not text:
        raise TraceError(f"{where}:{line}: {len(header)} columns are expected ({','.join(header)}), not {shown!r}")
    wanted = "R or W" if header[wrong - 1] == "op" else "a whole number of at least 0"
    raise TraceError(f"{where}:{line}: {header[wrong - 1]} must be {wanted}, in {shown!r}")
