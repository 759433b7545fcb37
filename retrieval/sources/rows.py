"""Rows: documents of a file that holds many, one a row: JSON, JSON lines, CSV, Parquet."""

from __future__ import annotations

import codecs
import csv
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import ijson
import pyarrow
from pyarrow import parquet

from retrieval.corpus import Document, Fields, ReadsLines, document_of, lines_in, parsed, unpacked
from retrieval.errors import CorpusError
from retrieval.sources.encoding import HEAD, encoding_of, marked_encoding
from retrieval.sources.unreadable import Unreadable

BATCH_ROWS = 256  # rows of a Parquet file in memory at a time
SEPARATORS = ",;\t|"


class Row(NamedTuple):
    """A row: its place in the file, as "12" for a line; its values, or why there are none; the bytes `read` so far."""

    place: str
    values: Mapping[str, Any] | CorpusError
    read: int


class Columns(NamedTuple):
    """What the user calls the id, title and text; None: "id" and "title", if there are any, and "text"."""

    id: str | None = None
    title: str | None = None
    text: str | None = None

    @property
    def fields(self) -> Fields:
        """The names with their defaults."""
        return Fields(self.id or "id", self.title or "title", self.text or "text")


Reader = Callable[[Path, Columns, str | None], Iterator[Row]]


def documents_of_rows(
    path: Path,
    name: str,
    kind: str,
    columns: Columns,
    fallback: str | None,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Document | Unreadable]:
    """The document of each row, or why there is none, read while they are iterated over.

    A row without an id is called `name`:PLACE, unless `columns` names the id. `progress` is called with the number of
    bytes read since its last call. Raises Unreadable where the file cannot be read any further.
    """
    reported = 0  # bytes that `progress` knows of
    try:
        for row in READERS[kind](path, columns, fallback):
            if row.read > reported:
                progress(row.read - reported)
                reported = row.read
            where = f"{path}:{row.place}"
            try:
                if isinstance(row.values, CorpusError):
                    raise row.values
                values = row.values
                if columns.id is None and isinstance(values, dict) and values.get("id") is None:
                    values = {**values, "id": f"{name}:{row.place}"}
                yield document_of(values, where, columns.fields)
            except CorpusError as error:
                yield Unreadable(where, str(error).removeprefix(f"{where}: "))
    except Unreadable:
        raise
    except OSError as error:
        raise Unreadable(str(path), f"cannot be read ({error.strerror or error})") from error
    except (pyarrow.ArrowException, ijson.JSONError, csv.Error, EOFError, zlib.error, ValueError) as error:
        what = " ".join(str(error).split())[:200]
        raise Unreadable(str(path), f"damaged, or not {kind.lstrip('.')} ({what})") from error


def _json_lines(path: Path, _columns: Columns, fallback: str | None) -> Iterator[Row]:
    with path.open("rb") as file:
        if path.suffix.lower() == ".gz":
            lines: ReadsLines = unpacked(path, file)
        elif fallback is None and marked_encoding(path) is None:
            lines = file  # so that a line that is not UTF-8 is named, and the others are kept
        else:
            lines = _utf8(path, file, fallback)
        for number, line in enumerate(lines_in(lines), start=1):
            if line != b"":
                try:
                    yield Row(str(number), parsed(line, path, number), file.tell())
                except CorpusError as error:
                    yield Row(str(number), error, file.tell())


def _json(path: Path, _columns: Columns, fallback: str | None) -> Iterator[Row]:
    """The objects of a list, or those that stand one after another in the file."""
    with path.open("rb") as file:
        first = _utf8(path, file, fallback).read(HEAD).lstrip()[:1]
    count = 0
    with path.open("rb") as file:
        prefix = "item" if first == b"[" else ""
        try:
            for value in ijson.items(_utf8(path, file, fallback), prefix, multiple_values=True, use_float=True):
                count += 1
                yield Row(str(count), value, file.tell())
        except (ijson.JSONError, UnicodeDecodeError) as error:
            what = " ".join(str(error).split())[:200]
            raise Unreadable(f"{path}:{count + 1}", f"not JSON from this row on ({what})") from error


class _Recoded:
    """The bytes of a text in UTF-8."""

    def __init__(self, text: IO[str]) -> None:
        self._text = text

    def read(self, size: int = -1) -> bytes:
        return self._text.read(size).encode()

    def readline(self, size: int = -1, /) -> bytes:
        return self._text.readline(size).encode()


def _utf8(path: Path, file: IO[bytes], fallback: str | None) -> IO[bytes] | _Recoded:
    """The bytes of an open file in UTF-8, whatever it is encoded in, without its byte order mark."""
    encoding = encoding_of(path, fallback)
    if encoding == "utf-8":
        return file
    if encoding == "utf-8-sig":
        file.seek(len(codecs.BOM_UTF8))
        return file
    return _Recoded(io.TextIOWrapper(file, encoding))


def _csv(path: Path, columns: Columns, fallback: str | None) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # texts are longer than the 128 KiB that it begins with
    encoding = encoding_of(path, fallback)
    with path.open("rb") as raw, io.TextIOWrapper(raw, encoding, newline="") as file:
        first = file.readline(HEAD)
        separator = max(SEPARATORS, key=first.count) if path.suffix.lower() != ".tsv" else "\t"
        file.seek(0)
        rows = csv.reader(file, delimiter=separator, strict=True)
        try:
            header = next(rows, [])
            _require_columns(path, columns, header)
            line = rows.line_num + 1
            for cells in rows:
                place, line = str(line), rows.line_num + 1
                if not cells:
                    continue
                if len(cells) == len(header):
                    yield Row(place, dict(zip(header, cells, strict=True)), raw.tell())
                else:
                    wrong = CorpusError(f"has {len(cells)} cells, where the header has {len(header)}")
                    yield Row(place, wrong, raw.tell())
        except (csv.Error, UnicodeDecodeError) as error:
            raise Unreadable(f"{path}:{rows.line_num}", f"not CSV from here on ({error})") from error


def _parquet(path: Path, columns: Columns, _fallback: str | None) -> Iterator[Row]:
    size = path.stat().st_size
    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        _require_columns(path, columns, names)
        wanted = [name for name in (columns.fields.id, columns.fields.title, columns.fields.text) if name in names]
        number = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
            for values in batch.to_pylist():
                number += 1
                yield Row(str(number), values, size * number // file.metadata.num_rows)


def _require_columns(path: Path, columns: Columns, names: list[str]) -> None:
    options = {"--text-field": columns.text or "text", "--id-field": columns.id, "--title-field": columns.title}
    for option, name in options.items():
        if name is not None and name not in names:
            there = ", ".join(map(repr, names[:20])) or "no columns"
            raise Unreadable(str(path), f"has no column {name!r} but {there}; name the right one by {option}")


READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
