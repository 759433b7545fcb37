"""Rows: documents of a file that holds many, one a row: JSON, JSON lines, CSV, Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow
from pyarrow import parquet, types

from retrieval.corpus import JSON_LINES, LONG_INTEGER, Document, Fields, document_of, lines_in, parsed, unpacked
from retrieval.errors import CorpusError
from retrieval.line_ends import ReadsLines
from retrieval.sources.csv_rows import csv_rows
from retrieval.sources.encoding import HEAD, encoding_of, marked_encoding
from retrieval.sources.json_rows import json_rows
from retrieval.sources.parquet_rows import parquet_rows
from retrieval.sources.unreadable import Unreadable

SEPARATORS = ",;\t|"
BLANK_CELLS = f'{SEPARATORS}" \r\n'  # what lines of blank cells consist of, which may stand above the header
_NAMED_SEPARATOR = re.compile(r'"?sep=([^\r\n"])"?[,;\t| ]*\r?\n?', re.IGNORECASE)  # Excel's first line
UNPAIRED = "its quotation marks do not pair; write those inside a quoted cell twice"


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
) -> Iterator[tuple[str, Document | Unreadable]]:
    """Where each row is, as "docs.csv:12", and its document or why there is none, read while they are iterated over.

    A row without an id is called `name`:PLACE, unless `columns` names the id. `progress` is called with the number of
    bytes read since its last call. Raises Unreadable for a file that has no rows, and where it cannot be read further.
    """
    reported = 0  # bytes that `progress` knows of
    row = None
    try:
        for row in READERS[kind](path, columns, fallback):
            if row.read > reported:
                progress(row.read - reported)
                reported = row.read
            where = f"{path}:{row.place}"
            try:
                yield where, _document(row, where, name, columns)
            except CorpusError as error:
                yield where, Unreadable(where, str(error).removeprefix(f"{where}: "))
    except Unreadable:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        last = f"readable up to row {row.place}" if row else "no row can be read"
        raise Unreadable(
            str(path), f"not a complete gzip file, {last} ({_in_a_line(error)}); download or pack it again"
        ) from error
    except OSError as error:
        raise Unreadable(str(path), f"cannot be read ({error.strerror or _in_a_line(error)})") from error
    except (
        pyarrow.ArrowException,
        csv.Error,
        ValueError,
        ArithmeticError,
        LookupError,
        RecursionError,
    ) as error:
        raise Unreadable(str(path), f"damaged, or not {kind.lstrip('.')} ({_in_a_line(error)})") from error
    if row is None:
        raise Unreadable(str(path), "holds no rows")


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _document(row: Row, where: str, name: str, columns: Columns) -> Document:
    values = row.values
    if isinstance(values, CorpusError):
        raise values
    if columns.id is None and isinstance(values, dict):
        given = values.get("id")
        if given is None or (isinstance(given, str) and not given.strip()):
            values = {**values, "id": f"{name}:{row.place}"}
    return document_of(values, where, columns.fields)


def _json_lines(path: Path, _columns: Columns, fallback: str | None) -> Iterator[Row]:
    with path.open("rb") as file:
        lines: ReadsLines = unpacked(path, file)
        if fallback is not None or marked_encoding(path) not in (None, "utf-8-sig"):
            encoding = encoding_of(path, fallback)
            if encoding not in ("utf-8", "utf-8-sig"):
                lines = _Recoded(io.TextIOWrapper(unpacked(path, file), encoding))
        # lines in UTF-8 are read as bytes, so that one which is not is named, and the others are kept
        for number, line in enumerate(lines_in(lines), start=1):
            if line != b"":
                try:
                    yield Row(str(number), parsed(line, path, number), file.tell())
                except CorpusError as error:
                    yield Row(str(number), error, file.tell())


class _Recoded:
    """The lines of a text in UTF-8."""

    def __init__(self, text: IO[str]) -> None:
        self._text = text

    def readline(self, size: int = -1, /) -> bytes:
        return self._text.readline(size).encode()


def _json(path: Path, _columns: Columns, fallback: str | None) -> Iterator[Row]:
    """The objects of a list, or those that stand one after another in the file."""
    encoding = encoding_of(path, fallback)
    count = 0
    with path.open("rb") as file, io.TextIOWrapper(file, encoding) as text:
        try:
            for count, (value, wrong) in enumerate(json_rows(text.read), start=1):
                yield Row(str(count), _wrong(wrong) if wrong else value, file.tell())
        except ValueError as error:
            what = f"{error.reason}, not {encoding}" if isinstance(error, UnicodeDecodeError) else str(error)
            raise Unreadable(f"{path}:{count + 1}", f"not JSON from this row on ({what})") from error


def _wrong(reason: str) -> CorpusError:
    if LONG_INTEGER in reason:
        return CorpusError("holds an integer of more digits than are read; write it as a string")
    return CorpusError(f"not JSON ({reason})")


def _csv(path: Path, columns: Columns, fallback: str | None) -> Iterator[Row]:
    encoding = encoding_of(path, fallback)
    with path.open("rb") as raw, io.TextIOWrapper(raw, encoding, newline="") as file:
        first = next((line for line in iter(lambda: file.readline(HEAD), "") if line.strip(BLANK_CELLS)), "")
        named = _NAMED_SEPARATOR.fullmatch(first)
        separator = "\t" if path.suffix.lower() == ".tsv" else _separator(first, columns.fields.text)
        file.seek(0)
        rows = csv_rows(file, named[1] if named else separator)
        try:
            above = (each for each in rows if each[1] is None or any(map(str.strip, each[1])))
            if named:
                next(above, None)
            place, header = next(above, (1, []))
            if header is None:
                raise Unreadable(f"{path}:{place}", f"not a header: {UNPAIRED}")
            _require_columns(path, columns, header)
            for place, cells in rows:
                wrong = UNPAIRED
                if cells is not None and len(cells) != len(header):
                    wrong = f"has {len(cells)} cells, where the header has {len(header)}"
                elif cells is not None:
                    yield Row(str(place), dict(zip(header, cells, strict=True)), raw.tell())
                    continue
                yield Row(str(place), CorpusError(wrong), raw.tell())
        except UnicodeDecodeError as error:
            raise Unreadable(f"{path}:{place}", f"not CSV behind this row ({error.reason}, not {encoding})") from error


def _separator(header: str, text: str) -> str:
    """What separates the columns: one that sets the column of the text apart, if any; then what stands most often."""
    unquoted = re.sub('"[^"]*"', "", header)

    def merit(separator: str) -> tuple[bool, int]:
        return text in next(csv.reader([header], delimiter=separator), []), unquoted.count(separator)

    return max(SEPARATORS, key=merit)


def _parquet(path: Path, columns: Columns, _fallback: str | None) -> Iterator[Row]:
    size = path.stat().st_size
    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        _require_columns(path, columns, schema.names)
        fields = columns.fields
        wanted = [name for name in (fields.id, fields.title, fields.text) if name in schema.names]
        for name in wanted:
            _require_type(path, name, schema.field(name).type, integers=name == fields.id)
        count = file.metadata.num_rows
    for first, last, values in parquet_rows(path, wanted):
        if isinstance(values, str):
            yield Row(f"{first}-{last}" if first < last else str(first), CorpusError(values), size * last // count)
        else:
            yield Row(str(first), _in_utf_8(values), size * last // count)


def _require_type(path: Path, name: str, kind: pyarrow.DataType, *, integers: bool) -> None:
    inner = kind.value_type if types.is_dictionary(kind) else kind
    tests = [types.is_string, types.is_large_string, types.is_string_view, types.is_null]
    tests += [types.is_binary, types.is_large_binary, types.is_binary_view]  # some writers do not mark text as text
    if integers:
        tests.append(types.is_integer)
    if not any(test(inner) for test in tests):
        right = "text or integers" if integers else "text"
        raise Unreadable(str(path), f"the column {name!r} is of type {kind}, not {right}; convert or name another one")


def _in_utf_8(values: dict[str, Any]) -> dict[str, Any] | CorpusError:
    """The values of a row, with bytes as the text that they are in UTF-8."""
    try:
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
    except UnicodeDecodeError as error:
        return CorpusError(f"not UTF-8 ({error.reason}, byte {error.start + 1} of a value)")


def _require_columns(path: Path, columns: Columns, names: list[str]) -> None:
    options = {"--text-field": columns.text or "text", "--id-field": columns.id, "--title-field": columns.title}
    for option, name in options.items():
        if name is not None and name not in names:
            there = ", ".join(map(repr, names[:20])) or "no columns"
            raise Unreadable(str(path), f"has no column {name!r} but {there}; name the right one by {option}")
    for name in (columns.fields.id, columns.fields.title, columns.fields.text):
        if names.count(name) > 1:
            raise Unreadable(str(path), f"has {names.count(name)} columns {name!r}; rename all but one of them")


READERS: dict[str, Reader] = {
    **dict.fromkeys((*JSON_LINES, ".ndjson"), _json_lines),
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
