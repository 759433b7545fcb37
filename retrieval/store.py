"""Document store: a corpus by row number and by id, in LMDB, so that it may be far larger than memory."""

import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmdb

from retrieval.corpus import CorpusFingerprint, Document, Passage
from retrieval.errors import IndexFolderError

FORMAT = 1
ROWS, ROW_OF_ID, META = b"rows", b"row_of_id", b"meta"
DATA_FILE = "data.mdb"
BATCH_ROWS, BATCH_BYTES = 2_000, 32 << 20  # documents a write transaction holds before it commits
FIRST_MAP_BYTES = 64 << 20


def _row_key(row: int) -> bytes:
    return row.to_bytes(8, "big")  # big-endian, so that LMDB's byte order is row order and rows append


def _id_key(document_id: str) -> bytes:
    return hashlib.blake2b(document_id.encode(), digest_size=16).digest()  # LMDB keys end at 511 bytes, ids do not


class DocumentWriter:
    """Writes a document store into a new folder, a batch of rows at a time.

    Rows are numbered from 0 in the order they are added. The store opens only after the writer's `with` block has
    ended without an exception.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        # sync once at the end: a build that dies is discarded, so nothing in between needs to be durable
        self._env = lmdb.open(str(folder), map_size=FIRST_MAP_BYTES, max_dbs=3, sync=False, metasync=False)
        self._tables = {name: self._env.open_db(name) for name in (ROWS, ROW_OF_ID, META)}
        self._batch: list[tuple[bytes, bytes, bytes]] = []  # row key, id key, record
        self._batch_bytes = 0
        self._count = 0
        self._fingerprint = CorpusFingerprint()

    def add(self, document: Document) -> int:
        """Append a document and return its row."""
        row = self._count
        fields: list[Any] = [document.id, document.title, document.text, dict(document.extra)]
        if (cut := document.passage) is not None:
            fields.append([cut.source, cut.number, cut.start, cut.end])
        record = json.dumps(fields, ensure_ascii=False)
        self._batch.append((_row_key(row), _id_key(document.id), record.encode()))
        self._batch_bytes += len(self._batch[-1][2])
        self._fingerprint.add(document)
        self._count += 1
        if len(self._batch) >= BATCH_ROWS or self._batch_bytes >= BATCH_BYTES:
            self._commit()
        return row

    def _commit(self, meta: bytes | None = None) -> None:
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    for row_key, id_key, record in self._batch:
                        txn.put(row_key, record, db=self._tables[ROWS], append=True)
                        txn.put(id_key, row_key, db=self._tables[ROW_OF_ID])
                    if meta is not None:
                        txn.put(b"store", meta, db=self._tables[META])
                break
            except lmdb.MapFullError:
                # LMDB undid the whole transaction; the map is address space, not disk, so doubling it costs nothing
                self._env.set_mapsize(self._env.info()["map_size"] * 2)
        self._batch.clear()
        self._batch_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            meta = {"format": FORMAT, "documents": self._count, "corpus_fingerprint": self._fingerprint.hexdigest()}
            self._commit(json.dumps(meta).encode())
            self._env.sync(True)
        self._env.close()
        if kind is None:
            (self._folder / "lock.mdb").unlink(missing_ok=True)  # readers take no lock: see DocumentStore


@dataclass(slots=True)
class _Shared:
    env: Any
    users: int


# LMDB refuses to map one file twice in a process, so stores on the same file share an environment
_shared: dict[tuple[int, int], _Shared] = {}
_shared_lock = threading.Lock()


class DocumentStore:
    """Read-only documents by row and by id; safe to share among threads and across a fork.

    `folder` is where it lies, `corpus_fingerprint` that of its documents. The files never change once built (an index
    is replaced as a folder), so readers take no lock and write nothing: the disk may be read-only, and any number of
    processes may read.
    """

    def __init__(self, folder: Path, key: tuple[int, int], env: Any) -> None:
        self.folder = folder
        self._key = key
        self._env: Any = env
        try:
            self._rows = env.open_db(ROWS, create=False)
            self._row_of_id = env.open_db(ROW_OF_ID, create=False)
            with env.begin(db=env.open_db(META, create=False)) as txn:
                meta = json.loads(txn.get(b"store"))
                rows = txn.stat(self._rows)["entries"]
            written_format, self._count = meta["format"], int(meta["documents"])
            self.corpus_fingerprint: str = meta["corpus_fingerprint"]
        except (lmdb.Error, TypeError, ValueError, KeyError) as error:
            raise IndexFolderError(
                f"{folder}: the document store was not finished or is damaged; build the index again"
            ) from error
        if written_format != FORMAT:
            raise IndexFolderError(
                f"{folder}: document store format {written_format}, this version reads {FORMAT}; build the index again"
            )
        if rows != self._count:
            raise IndexFolderError(
                f"{folder}: {rows} rows where {self._count} documents were written; build the index again"
            )

    @classmethod
    def open(cls, folder: Path) -> "DocumentStore":
        """Open the store in a folder; IndexFolderError if it is missing, unfinished, damaged or of another format."""
        data = folder / DATA_FILE
        if not data.is_file():
            raise IndexFolderError(f"{folder}: no document store there ({DATA_FILE} is missing); build the index again")
        status = data.stat()
        key = (status.st_dev, status.st_ino)
        with _shared_lock:
            shared = _shared.get(key)
            if shared is None:
                try:
                    env = lmdb.open(str(folder), readonly=True, lock=False, create=False, max_dbs=3)
                except lmdb.Error as error:
                    raise IndexFolderError(
                        f"{folder}: LMDB cannot open the document store ({error}); build the index again"
                    ) from error
                shared = _shared[key] = _Shared(env, users=0)
            shared.users += 1
        try:
            return cls(folder, key, shared.env)
        except BaseException:
            _release(key)
            raise

    def __len__(self) -> int:
        return self._count

    def get(self, row: int) -> Document:
        """The document of a row, 0 <= row < len; IndexError outside."""
        if not 0 <= row < self._count:
            raise IndexError(f"row {row} of a store of {self._count} documents")
        with self._open_env().begin(db=self._rows) as txn:
            document_id, title, text, extra, *cut = json.loads(txn.get(_row_key(row)))
        return Document(document_id, title, text, extra, Passage(*cut[0]) if cut else None)

    def row_of(self, document_id: str) -> int:
        """The row of a document; KeyError if no document has this id."""
        with self._open_env().begin(db=self._row_of_id) as txn:
            key = txn.get(_id_key(document_id))
        if key is None:
            raise KeyError(document_id)
        return int.from_bytes(key, "big")

    def close(self) -> None:
        """Release the files. Closing twice is harmless; reading afterwards is an IndexFolderError."""
        if self._env is not None:
            self._env = None
            _release(self._key)

    def _open_env(self) -> Any:
        if self._env is None:
            raise IndexFolderError(f"{self.folder}: the document store was closed; open it again")
        return self._env

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _release(key: tuple[int, int]) -> None:
    with _shared_lock:
        shared = _shared[key]
        shared.users -= 1
        if shared.users == 0:
            del _shared[key]
            shared.env.close()
