"""Trace: requests to replay, read from a file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ragcache.errors import TraceError
from ragcache.tree.segment import Segment
from ragcache.tree.tree import path_key

Requested = tuple[Segment, ...]


@dataclass(slots=True)
class Trace:
    """Requests as paths of documents, in the order of arrival, without texts: a segment is known by its length alone.

    `paths` are the documents of each request, `tokens` their tokens together. A document whose size changes is another
    document from then on, as a changed text would be.
    """

    paths: list[Requested] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # of each path
    _segments: dict[tuple[str, int], Segment] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def documents(self) -> int:
        """The number of documents that the requests ask for, counting a document at each request."""
        return sum(map(len, self.paths))

    def add(self, documents: list[tuple[str, int]]) -> None:
        """Adds a request: pairs of id and size in tokens, in the order of the prompt."""
        self.paths.append(tuple(self._segment(document) for document in documents))
        self.tokens.append(sum(size for _, size in documents))

    def future(self, root: int) -> dict[int, list[int]]:
        """The numbers of the requests that ask for a path, in order, by the path's key below a root of key `root`."""
        requests: dict[int, list[int]] = {}
        for number, path in enumerate(self.paths):
            key = root
            for segment in path:
                key = path_key(key, segment.key)
                requests.setdefault(key, []).append(number)
        return requests

    def _segment(self, document: tuple[str, int]) -> Segment:
        segment = self._segments.get(document)
        if segment is None:
            name, size = document
            digest = hashlib.blake2b(f"{size} {name}".encode(errors="surrogatepass"), digest_size=16).digest()
            segment = self._segments[document] = Segment(name, range(size), digest)
        return segment


def read_trace(file: Path, form: str) -> Trace:
    """The trace in `file`, in the format named `form`, gzipped if the file's name ends in .gz.

    Raises TraceError, which names the line that cannot be used."""
    trace = FORMATS[form](file)
    if not trace.documents:
        raise TraceError(f"{file} asks for no documents")
    return trace


def _read_paths(file: Path) -> Trace:
    """JSON lines `{t, path: [ids], sizes: [tokens]}`."""
    trace = Trace()
    for where, row in json_lines(file):
        trace.add(documents_of(row, where))
    return trace


def _read_objects(file: Path) -> Trace:
    """CSV with columns `obj` and `size`: each line is a request for one document."""
    trace = Trace()
    with _opened(file) as lines:
        rows = csv.DictReader(lines)
        if not {"obj", "size"} <= set(rows.fieldnames or ()):
            raise TraceError(f"{file}:1: the header must name columns 'obj' and 'size'")
        for row in rows:
            where = f"{file}:{rows.line_num}"
            size = row["size"]
            if not row["obj"] or not size or not (size.isascii() and size.isdigit()):
                raise TraceError(f"{where}: needs an 'obj' and a whole number as 'size', not {row['obj']!r}, {size!r}")
            trace.add([(row["obj"], _size(int(size), where))])
    return trace


def _read_ragpulse(file: Path) -> Trace:
    """RAGPulse (arXiv 2511.12979): the trace, and its passages' lengths in `passages.jsonl[.gz]` beside it.

    A path is the passages of a request in their order. Requests that retrieved nothing are left out.
    """
    beside = next(
        (path for path in (file.parent / f"passages.jsonl{end}" for end in ("", ".gz")) if path.exists()), None
    )
    if beside is None:
        raise TraceError(f"the lengths of the passages are missing: {file.parent / 'passages.jsonl'}[.gz]")
    lengths: dict[Any, int] = {}
    for where, row in json_lines(beside):
        lengths[_name(row.get("passage_id"), where)] = _size(row.get("token_length"), where)
    trace = Trace()
    for where, row in json_lines(file):
        hashes = row.get("hash_ids")
        passages = hashes.get("passages_ids") if isinstance(hashes, dict) else None
        if not isinstance(passages, list):
            raise TraceError(f"{where}: needs a list 'passages_ids' in 'hash_ids'")
        names = [_name(passage, where) for passage in passages]
        if unknown := [name for name in names if name not in lengths]:
            raise TraceError(f"{where}: passage {unknown[0]} is not in {beside}")
        if names:
            trace.add([(name, lengths[name]) for name in names])
    return trace


FORMATS: dict[str, Callable[[Path], Trace]] = {
    "paths": _read_paths,
    "objects": _read_objects,
    "ragpulse": _read_ragpulse,
}


def documents_of(row: dict[str, Any], where: str) -> list[tuple[str, int]]:
    """The ids and sizes of `{path: [ids], sizes: [tokens]}`."""
    path, sizes = row.get("path"), row.get("sizes")
    if not isinstance(path, list) or not isinstance(sizes, list) or len(path) != len(sizes):
        raise TraceError(f"{where}: needs lists 'path' and 'sizes' of one length")
    return [(_name(name, where), _size(size, where)) for name, size in zip(path, sizes, strict=True)]


def json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in a file of JSON lines, gzipped if its name ends in .gz, each with its place `file:line`.

    Raises TraceError for a file that cannot be read and a line that is not an object."""
    with _opened(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise TraceError(f"{where}: not valid JSON: {error}") from error
            if not isinstance(row, dict):
                raise TraceError(f"{where}: needs a JSON object, not {line.strip()[:40]!r}")
            yield where, row


@contextmanager
def _opened(file: Path) -> Iterator[IO[str]]:
    try:
        packed = file.suffix == ".gz"
        with gzip.open(file, "rt", encoding="utf-8") if packed else file.open(encoding="utf-8", newline="") as lines:
            yield lines
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{file} is not a text file of this format: {error}") from error


def _name(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TraceError(f"{where}: a document's id is a text or a whole number, not {value!r}")
    return str(value)


def _size(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**62:
        raise TraceError(f"{where}: a size is a whole number of 1 or more, not {value!r}")
    return value
