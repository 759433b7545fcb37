"""Traces: the documents and the lengths of recorded requests, read line by line, and no further than is wanted.

Files are text, plain or gzipped, in UTF-8 with or without a mark at the beginning, and lines end in either way; blank
ones are skipped.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from pimsim.errors import TraceError

COLUMNS = ("ContextTokens", "GeneratedTokens")  # Azure's public traces
MOST_LENGTH = 100_000_000  # tokens of a request: more is a mistake
LONGEST_TEXT = 60  # letters of a field in a message
GZIP = b"\x1f\x8b"


def document_lists(path: str, most: int) -> list[tuple[int, ...]]:
    """Documents of the first `most` requests that have any, each once, in their order.

    A line is a JSON list of whole numbers, an object with it as `documents`, or RAGPulse's `hash_ids.passages_ids`.
    TraceError, with the line, for what is neither, and for a file without any.
    """
    return list(_documents(path, most, *_version(path)))


def lengths(path: str, most: int) -> list[tuple[int, int]]:
    """Tokens of prompt and answer of the first `most` rows of a CSV file, whose header names COLUMNS, in any order.

    TraceError, with the line, for what is not a whole number of at least 1.
    """
    return list(_rows(path, most, *_version(path)))


def _version(path: str) -> tuple[int, int]:
    """Time and size of a file, which tell it from another version of it."""
    try:
        status = Path(path).stat()
    except OSError:
        return 0, 0  # reading says what is wrong
    return status.st_mtime_ns, status.st_size


@contextmanager
def _opened(path: str) -> Iterator[TextIO]:
    try:
        with Path(path).open("rb") as raw:
            zipped = raw.read(2) == GZIP
            raw.seek(0)
            data: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
            with TextIOWrapper(data, encoding="utf-8-sig", newline="") as text:
                yield text
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise TraceError(f"{path}: cannot be read ({error}); give a text file, plain or gzipped") from error


@lru_cache(maxsize=8)
def _documents(path: str, most: int, *_file: int) -> tuple[tuple[int, ...], ...]:
    with _opened(path) as text:
        lists = tuple(islice(_lists(path, text), most))
    if not lists:
        raise TraceError(f"{path}: no line names documents; each is a list, or has hash_ids.passages_ids or documents")
    return lists


def _lists(path: str, text: TextIO) -> Iterator[tuple[int, ...]]:
    for line, content in enumerate(text, 1):
        if not content.strip():
            continue
        try:
            value: Any = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{path}, line {line}: not JSON ({error})") from error
        if isinstance(value, dict):
            hashes = value.get("hash_ids")
            value = hashes.get("passages_ids") if isinstance(hashes, dict) else value.get("documents")
            value = [] if value is None else value
        if not isinstance(value, list):
            raise TraceError(f"{path}, line {line}: documents must be a list of whole numbers, not {_short(value)}")
        documents = [_whole(entry) for entry in value]
        wrong = next((entry for entry, document in zip(value, documents, strict=True) if document is None), None)
        if wrong is not None or None in documents:
            raise TraceError(f"{path}, line {line}: documents must be whole numbers, not {_short(wrong)}")
        if documents:
            yield tuple(dict.fromkeys(document for document in documents if document is not None))


@lru_cache(maxsize=8)
def _rows(path: str, most: int, *_file: int) -> tuple[tuple[int, int], ...]:
    with _opened(path) as text:
        reader = csv.reader(text, skipinitialspace=True)
        try:
            columns = _header(path, reader)
            rows = tuple(islice(_lengths(path, reader, *columns), most))
        except csv.Error as error:
            raise TraceError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    if not rows:
        raise TraceError(f"{path}: no rows")
    return rows


def _header(path: str, reader: Any) -> tuple[int, int]:
    names = next(([name.strip() for name in row] for row in reader if any(name.strip() for name in row)), [])
    for column in COLUMNS:
        if names.count(column) != 1:
            raise TraceError(
                f"{path}, line {max(1, reader.line_num)}: the header must name {' and '.join(COLUMNS)} once, not "
                f"{_short(','.join(names))}"
            )
    return names.index(COLUMNS[0]), names.index(COLUMNS[1])


def _lengths(path: str, reader: Any, prompt: int, output: int) -> Iterator[tuple[int, int]]:
    for row in reader:
        if not any(field.strip() for field in row):
            continue
        row_lengths = []
        for column, name in zip((prompt, output), COLUMNS, strict=True):
            text = row[column].strip() if column < len(row) else ""
            value = _number(text)
            if value is None or not 1 <= value <= MOST_LENGTH:
                raise TraceError(
                    f"{path}, line {reader.line_num}: {name} must be a whole number from 1 to {MOST_LENGTH:,}, not "
                    f"{_short(text)}"
                )
            row_lengths.append(value)
        yield row_lengths[0], row_lengths[1]


def _number(text: str) -> int | None:
    """The whole number of a text, as `374` or `374.0`; None for any other."""
    for kind in (int, float):
        read: Callable[[str], Any] = kind
        try:
            return _whole(read(text))
        except ValueError:
            continue
    return None


def _whole(value: Any) -> int | None:
    """A value as a whole number, or None if it is not one."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"
