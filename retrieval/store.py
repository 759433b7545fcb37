"""Document store: a corpus by row number and by id, in an LMDB file, so that it may be far larger than memory."""

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmdb

from retrieval.corpus import CorpusFingerprint, Document, Passage, text_pieces
from retrieval.errors import IndexDamaged, IndexFolderError
from retrieval.full_disk import require_room
from retrieval.lmdb_pages import DamagedPages, PageFile

FORMAT = 2
UNCHECKED_FORMAT = 1  # records without a checksum, and texts in one piece: still read
ROWS, PARTS, ROW_OF_ID, META = TABLES = (b"rows", b"parts", b"row_of_id", b"meta")
DATA_FILE = "data.mdb"
BATCH_ROWS, BATCH_BYTES = 2_000, 32 << 20  # records a write transaction holds before it commits
FIRST_MAP_BYTES = 64 << 20
CHECKSUM_BYTES, COUNT_BYTES = 16, 4


def _row_key(row: int) -> bytes:
    return row.to_bytes(8, "big")  # big-endian, so that LMDB's byte order is row order and rows append


def _part_key(row: int, part: int) -> bytes:
    return _row_key(row) + part.to_bytes(COUNT_BYTES, "big")


def _id_key(document_id: str) -> bytes:
    return hashlib.blake2b(document_id.encode(), digest_size=16).digest()  # LMDB keys end at 511 bytes, ids do not


def _checksum(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(key + body, digest_size=CHECKSUM_BYTES).digest()  # with the key, so that no two are mixed up


class DocumentWriter:
    """Writes a document store into a new folder, a batch of records at a time.

    Rows are numbered from 0 in the order they are added. The store opens only after the writer's `with` block has
    ended without an exception. What the disk refuses is an OSError that names the file.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        with self._writing():
            # sync once at the end: a build that dies is discarded, so nothing in between needs to be durable. No lock:
            # the folder is new, and LMDB's lock file is written through a map, where a full disk would be a signal
            self._env = lmdb.open(
                os.fsencode(folder),
                map_size=FIRST_MAP_BYTES,
                max_dbs=len(TABLES),
                sync=False,
                metasync=False,
                lock=False,
            )
            self._tables = {name: self._env.open_db(name) for name in TABLES}
        self._batch: list[tuple[bytes, bytes, bytes]] = []  # table, key, value
        self._batch_bytes = 0
        self._count = 0
        self._fingerprint = CorpusFingerprint()

    def add(self, document: Document) -> int:
        """Append a document and return its row."""
        row = self._count
        pieces = text_pieces(document.text)  # a text of gigabytes is never encoded as a whole
        key, head = _row_key(row), next(pieces)
        parts = 0
        for parts, piece in enumerate(pieces, start=1):
            part_key, body = _part_key(row, parts), piece.encode()
            self._put(PARTS, part_key, _checksum(part_key, body) + body)
        fields: list[Any] = [document.id, document.title, head, dict(document.extra)]
        if (cut := document.passage) is not None:
            fields.append([cut.source, cut.number, cut.start, cut.end])
        try:
            written = json.dumps(fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half of a surrogate pair in `extra`, which JSON holds as an escape
            written = json.dumps(fields).encode()
        body = parts.to_bytes(COUNT_BYTES, "big") + written
        self._put(ROWS, key, _checksum(key, body) + body)
        self._put(ROW_OF_ID, _id_key(document.id), key)
        self._fingerprint.add(document)
        self._count += 1
        return row

    def _put(self, table: bytes, key: bytes, value: bytes) -> None:
        if len(self._batch) >= 2 * BATCH_ROWS or self._batch_bytes >= BATCH_BYTES:
            self._commit()
        self._batch.append((table, key, value))
        self._batch_bytes += len(value)

    def _commit(self) -> None:
        with self._writing():
            while True:
                try:
                    with self._env.begin(write=True) as txn:
                        for table, key, value in self._batch:
                            txn.put(key, value, db=self._tables[table], append=table in (ROWS, PARTS))
                    break
                except lmdb.MapFullError:
                    # LMDB undid the whole transaction; the map is address space, not disk: doubling it costs nothing
                    self._env.set_mapsize(self._env.info()["map_size"] * 2)
        self._batch.clear()
        self._batch_bytes = 0

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what LMDB raises for a disk that is full or fails into an OSError."""
        try:
            yield
        except lmdb.Error as error:
            data = self._folder / DATA_FILE
            require_room(error, data)
            raise OSError(errno.EIO, f"LMDB cannot write ({error})", str(data)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            if kind is None:
                meta = {"format": FORMAT, "documents": self._count, "corpus_fingerprint": self._fingerprint.hexdigest()}
                self._put(META, b"store", json.dumps(meta).encode())
                self._commit()
                with self._writing():
                    self._env.sync(True)
        finally:
            self._env.close()


class DocumentStore:
    """Read-only documents by row and by id; safe to share among threads and across a fork.

    `folder` is where it lies, `corpus_fingerprint` that of its documents, `checked` says whether its records have
    checksums. The files never change once built (an index is replaced as a folder), so readers take no lock and write
    nothing: the disk may be read-only, and any number of processes may read.

    A record is returned as it was written, or not at all: a file that was cut or changed, before it was opened or
    since, is IndexDamaged, and no signal.
    """

    def __init__(self, folder: Path, pages: PageFile) -> None:
        self.folder = folder
        self._pages = pages
        with self._reading():
            self._rows, self._row_of_id = pages.table(ROWS), pages.table(ROW_OF_ID)
            meta = json.loads(pages.get(pages.table(META), b"store") or b"")
            written_format, self._count = meta["format"], int(meta["documents"])
            self.corpus_fingerprint: str = meta["corpus_fingerprint"]
            if written_format not in (UNCHECKED_FORMAT, FORMAT):
                raise IndexFolderError(
                    f"{folder}: document store format {written_format}, this version reads {FORMAT}; "
                    "build the index again"
                )
            self.checked = written_format == FORMAT
            self._parts = pages.table(PARTS) if self.checked else None
            if self._rows.entries != self._count:
                raise DamagedPages(f"{self._rows.entries} rows where {self._count} documents were written")

    @classmethod
    def open(cls, folder: Path) -> "DocumentStore":
        """Open the store in a folder; IndexFolderError if it is missing, unfinished, damaged or of another format."""
        data = folder / DATA_FILE
        if not data.is_file():
            what = "is not a regular file" if data.exists() else "is missing"
            raise IndexFolderError(f"{folder}: no document store there ({DATA_FILE} {what}); build the index again")
        try:
            pages = PageFile(data)
        except DamagedPages as error:
            raise _damaged(data, error) from error
        except OSError as error:
            raise IndexFolderError(f"{data}: cannot be read ({error.strerror}); check its permissions") from error
        try:
            return cls(folder, pages)
        except BaseException:
            pages.close()
            raise

    def __len__(self) -> int:
        return self._count

    @property
    def closed(self) -> bool:
        """Whether it was closed: every read is an IndexFolderError then."""
        return self._pages.closed

    def get(self, row: int, characters: int | None = None) -> Document:
        """The document of a row, 0 <= row < len; IndexError outside.

        With `characters`, title and text are cut to this many, so that no more is read of a document of gigabytes.
        """
        if not 0 <= row < self._count:
            raise IndexError(f"row {row} of a store of {self._count} documents")
        with self._reading():
            body = self._record(self._rows, _row_key(row))
            parts = int.from_bytes(body[:COUNT_BYTES], "big") if self.checked else 0
            document_id, title, text, extra, *cut = json.loads(body[COUNT_BYTES:] if self.checked else body)
            if parts and (characters is None or len(text) < characters):
                text = self._joined(text, row, parts, characters)
            passage = Passage(*cut[0]) if cut else None
        return Document(document_id, title[:characters], text[:characters], extra, passage)

    def _joined(self, head: str, row: int, parts: int, characters: int | None) -> str:
        """A text from its head and the parts that follow it, as many of them as are needed."""
        whole = io.StringIO()  # holds one copy where joining would hold two
        length = whole.write(head)
        for part in range(1, parts + 1):
            if characters is not None and length >= characters:
                break
            length += whole.write(self._record(self._parts, _part_key(row, part)).decode())
        return whole.getvalue()

    def row_of(self, document_id: str) -> int:
        """The row of a document; KeyError if no document has this id."""
        with self._reading():
            key = self._pages.get(self._row_of_id, _id_key(document_id))
            if key is None:
                raise KeyError(document_id)
            row = int.from_bytes(key, "big")
            if len(key) != len(_row_key(0)) or row >= self._count or self.get(row, 1).id != document_id:
                raise DamagedPages(f"the id {document_id!r} leads to row {row}, which has another")
        return row

    def _record(self, table: Any, key: bytes) -> bytes:
        """The value of a key in a table, without its checksum."""
        value = self._pages.get(table, key)
        if value is None:
            raise DamagedPages(f"record {int.from_bytes(key[:8], 'big')} is missing")
        if not self.checked:
            return value
        body = value[CHECKSUM_BYTES:]
        if _checksum(key, body) != value[:CHECKSUM_BYTES]:
            raise DamagedPages(f"record {int.from_bytes(key[:8], 'big')} has changed")
        return body

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        if self.closed:
            raise IndexFolderError(f"{self.folder}: the document store was closed; open it again")
        try:
            yield
        except KeyError as error:
            if isinstance(error.args[0], bytes):  # a table, not an id
                raise _damaged(self.folder / DATA_FILE, f"table {error.args[0].decode()!r} is missing") from error
            raise
        except (DamagedPages, TypeError, ValueError) as error:
            raise _damaged(self.folder / DATA_FILE, error) from error

    def close(self) -> None:
        """Release the files. Closing twice is harmless; reading afterwards is an IndexFolderError."""
        self._pages.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _damaged(data: Path, why: object) -> IndexDamaged:
    return IndexDamaged(f"{data}: the document store was not finished or is damaged ({why}); build the index again")
