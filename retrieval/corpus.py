"""Corpus: documents as JSON lines, plain or gzipped, read and written one at a time."""

import codecs
import collections
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from retrieval.errors import CorpusError
from retrieval.line_ends import OldMacLines, ReadsLines, ends_as_on_old_macs
from retrieval.long_json import parse_pieces

PIECE = 1 << 18  # characters of a text, or bytes of a line, that are handled at once
FIELDS = ("id", "title", "text")  # the keys retrieval uses; every other key of a row is kept in `extra`
JSON_LINES = (".jsonl", ".jsonl.gz")  # what names of corpus files end in
MOST_NESTED = 100  # lists and objects in one another: what is parsed near the interpreter's limit cannot be written
LONG_INTEGER = "Exceeds the limit"  # what Python says of an integer that takes long to read, before advice on Python
HALF_PAIR = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Passage:
    """Where a passage was cut from: characters `start` to `end` (exclusive) of the text of the document `source`.

    `number` counts the passages of that document from 1, in the order of its text.
    """

    source: str
    number: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Document:
    """One retrievable text: a whole document, or a passage of one, which then says where it was cut from.

    `id` is unique in its corpus and not empty, `text` is not blank, `title` may be empty; `extra` holds the row's
    other fields as JSON values, in the row's order.
    """

    id: str
    title: str
    text: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    passage: Passage | None = None

    @property
    def source(self) -> str:
        """Id of the whole document."""
        return self.id if self.passage is None else self.passage.source

    @property
    def movable(self) -> bool:
        """Whether it may be read at another place among the documents: unless its row has `"movable": false`."""
        return self.extra.get("movable") is not False


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the keys or columns that hold the id, title and text of a row. The title may be missing."""

    id: str = "id"
    title: str = "title"
    text: str = "text"


def text_pieces(text: str) -> Iterator[str]:
    """A text in pieces of at most PIECE characters, so that no second copy of a long one is made; at least one."""
    return (text[start : start + PIECE] for start in range(0, max(1, len(text)), PIECE))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class CorpusFingerprint:
    """SHA-256 over id, title and text of documents, in order.

    Two corpora have equal fingerprints exactly when they are equal to retrieval, which does not use `extra`.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, document: Document) -> None:
        """Take in the next document."""
        # a JSON list marks where each field ends, so no two different rows share bytes
        self._hash.update(_json([document.id, document.title])[:-1] + b',"')
        for piece in text_pieces(document.text):
            self._hash.update(_json(piece)[1:-1])
        self._hash.update(b'"]\n')

    def hexdigest(self) -> str:
        """The fingerprint of the documents so far, 64 hex digits."""
        return self._hash.hexdigest()


def read_corpus(
    path: Path, progress: Callable[[int], None] | None = None, fields: Fields | None = None
) -> Iterator[Document]:
    """The documents of a .jsonl or .jsonl.gz file, in order, read while they are iterated over.

    `progress` is called with the number of bytes of the file read since its last call. Raises CorpusError, naming path
    and line: at once for a wrong name or a missing file, and for a wrong row when the iteration reaches it.
    """
    _require_suffix(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CorpusError(f"{path}: the corpus {what}; give a .jsonl or .jsonl.gz file with one JSON object per line")
    return _read_rows(path, progress, fields or Fields())


def write_corpus(path: Path, documents: Iterable[Document]) -> int:
    """Write documents to a .jsonl or .jsonl.gz file, completely or not at all; returns their number.

    Equal documents give equal bytes. Documents that `read_corpus` would refuse are a CorpusError.
    """
    _require_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            if path.suffix.lower() == ".gz":
                # no file name and no time in the header: bytes depend on the documents alone
                with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                    count = _write_rows(path, packed, documents)
            else:
                count = _write_rows(path, file, documents)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def _require_suffix(path: Path) -> None:
    if not path.name.lower().endswith(JSON_LINES):
        raise CorpusError(f"{path}: a corpus is a .jsonl or .jsonl.gz file; rename or convert it")


def _read_rows(path: Path, progress: Callable[[int], None] | None, fields: Fields) -> Iterator[Document]:
    line_of: dict[str, int] = {}
    number = 0
    try:
        with path.open("rb") as file, unpacked(path, file) as lines:
            reported = 0  # bytes that `progress` knows of
            for number, line in enumerate(lines_in(lines), start=1):
                if progress is not None and file.tell() > reported:
                    progress(file.tell() - reported)
                    reported = file.tell()
                if line == b"":
                    continue
                document = document_of(parsed(line, path, number), f"{path}:{number}", fields)
                first = line_of.setdefault(document.id, number)
                if first != number:
                    raise CorpusError(
                        f"{path}:{number}: id {document.id!r} is already used on line {first}; give each row its own id"
                    )
                yield document
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(
            f"{path}: not a complete gzip file, readable up to line {number} ({error}); download or pack it again"
        ) from error
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not line_of:
        raise CorpusError(f"{path}: the corpus is empty; it needs at least one row with 'id' and 'text'")


def unpacked(path: Path, file: IO[bytes]) -> IO[bytes]:
    """The bytes of an open file, unpacked while they are read if its name ends in .gz."""
    # a binary file closes twice without harm, so the plain file may stand for its own unpacked stream
    return gzip.GzipFile(fileobj=file, mode="rb") if path.suffix.lower() == ".gz" else file  # type: ignore[return-value]


def lines_in(file: ReadsLines) -> Iterator[bytes | Iterator[bytes]]:
    """The lines of a file, without the white space and a byte order mark around them.

    A long one is given as its pieces, to be read at once. Where the first rows end as on old Macs, all lines may.
    """
    first = True
    while line := file.readline(PIECE):
        if first and ends_as_on_old_macs(line):
            file = OldMacLines(line, file)
            line = file.readline(PIECE)
        first = False
        if len(line) < PIECE or line.endswith(b"\n"):
            yield line.strip().removeprefix(codecs.BOM_UTF8).lstrip()
            continue
        rest = _pieces(line, file)
        yield rest
        collections.deque(rest, maxlen=0)  # what was left unread, where the line turned out to be wrong


def _pieces(piece: bytes, file: ReadsLines) -> Iterator[bytes]:
    while piece:
        yield piece
        piece = b"" if piece.endswith(b"\n") else file.readline(PIECE)


def parsed(line: bytes | Iterator[bytes], path: Path, number: int) -> Any:
    """The JSON value of line `number` of a file; CorpusError, naming the line, if it is not JSON in UTF-8."""
    encoding = "utf-8-sig"  # editors on Windows start a file with a byte order mark, and files are put together
    position = 0  # bytes of the line before the piece that is decoded
    try:
        if isinstance(line, bytes):
            return json.loads(line.decode(encoding))
        decoder = codecs.getincrementaldecoder(encoding)()

        def texts(pieces: Iterator[bytes]) -> Iterator[str]:
            nonlocal position
            for piece in pieces:
                held = len(decoder.getstate()[0])
                position -= held
                yield decoder.decode(piece)
                position += held + len(piece)
            yield decoder.decode(b"", final=True)

        return parse_pieces(texts(line))
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}:{number}: not UTF-8 (byte {position + error.start + 1} of the line); save the corpus as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        if LONG_INTEGER in str(error):
            what = "holds an integer of more digits than are read"
            raise CorpusError(f"{path}:{number}: {what}; write it as a string") from error
        raise CorpusError(f"{path}:{number}: not JSON ({error}); each line must be one JSON object") from error


def document_of(row: Any, where: str, fields: Fields) -> Document:
    """The document of a row, whose integer id is taken as text; CorpusError, beginning with `where`, for a wrong row.

    Every other key of the row is kept in `extra`.
    """
    if not isinstance(row, dict):
        raise CorpusError(
            f"{where}: the row is a JSON {_json_type(row)}; every row must be an object with {fields.id!r} and "
            f"{fields.text!r}"
        )
    name, title = row.get(fields.id), row.get(fields.title)
    document = Document(
        id=str(name) if type(name) is int else name,  # type: ignore[arg-type]  # _check looks at what there was
        title="" if title is None else title,
        text=row.get(fields.text),  # type: ignore[arg-type]
        extra={key: value for key, value in row.items() if key not in (fields.id, fields.title, fields.text)},
    )
    _check(document, where, fields)
    if _nested_too_deep(document.extra):
        raise CorpusError(f"{where}: holds lists and objects more than {MOST_NESTED} deep in one another; flatten it")
    return document


def _nested_too_deep(extra: Mapping[str, Any]) -> bool:
    level: list[Any] = [extra]
    for _ in range(MOST_NESTED):
        inside = (each for holder in level for each in (holder.values() if isinstance(holder, Mapping) else holder))
        level = [each for each in inside if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def _check(document: Document, where: str, fields: Fields) -> None:
    for name in FIELDS:
        value: object = getattr(document, name)
        key = getattr(fields, name)
        if value is None:
            raise CorpusError(
                f"{where}: {key!r} is missing; every row needs a string {fields.id!r} and a string {fields.text!r}"
            )
        if not isinstance(value, str):
            raise CorpusError(f"{where}: {key!r} is a JSON {_json_type(value)}; write it as a string")
        if (not value or value.isspace()) and name != "title":
            raise CorpusError(f"{where}: {key!r} is blank; fill it in or leave the row out")
        half = None if value.isascii() else HALF_PAIR.search(value)
        if half is not None:
            raise CorpusError(
                f"{where}: {key!r} holds half of a surrogate pair at character {half.start() + 1}, "
                "which is not text; replace it with the intended character"
            )


def _json_type(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _write_rows(path: Path, file: IO[bytes] | gzip.GzipFile, documents: Iterable[Document]) -> int:
    row_of: dict[str, int] = {}
    for number, document in enumerate(documents, start=1):
        where = f"{path}:{number}"
        _check(document, where, Fields())
        first = row_of.setdefault(document.id, number)
        if first != number:
            raise CorpusError(f"{where}: id {document.id!r} is already used by document {first}; ids must be unique")
        clash = [name for name in document.extra if name in FIELDS]
        if clash:
            raise CorpusError(f"{where}: extra field {clash[0]!r} has the name of a document's own field; rename it")
        row = {"id": document.id, "title": document.title, "text": document.text, **document.extra}
        try:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise CorpusError(f"{where}: an extra field cannot be written as JSON ({error})") from error
        file.write(line)
    if not row_of:
        raise CorpusError(f"{path}: there are no documents to write; a corpus needs at least one")
    return len(row_of)
