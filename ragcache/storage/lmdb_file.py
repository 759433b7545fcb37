"""DiskFile: the one LMDB file of a disk tier: how it is locked, when it is trusted, and how room in it is kept.

LMDB never overwrites a page in use, so each transaction needs free pages besides those of its data, and even a
removal does: a file without free pages could not be emptied any more. `usable` leaves them out. Bytes are stored as
chunks, runs of 256 pages (1 MiB), then 16, then single ones, each full but for the 16 bytes LMDB puts in front, so
that another chunk fits where one was. When the free pages are so scattered that no long run is left, shorter runs are
written: pages that are free can always be filled.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lmdb

from ragcache.errors import ConfigError, RecordError
from ragcache.storage.lmdb_survey import Progress, survey
from ragcache.storage.record import about_bytes
from retrieval.full_disk import require_room, says_full
from retrieval.lmdb_pages import PAGE_HEADER, DamagedPages

log = logging.getLogger(__name__)

MARK, DATA, LOCK = "ragcache-disk.lock", "data.mdb", "lock.mdb"
HEADERS, STATS, CHUNKS, TURNS = TABLES = (b"headers", b"stats", b"chunks", b"turns")
RUNS = (256, 16, 1)  # pages a chunk takes
REMOVED_PAGES = (8192, 128)  # a transaction removes until it has freed this many; the second if room is scattered
_NAME, LONGEST_NAME = b"name ", 200  # of settings: keys in the table of turns, and bytes of a name
BODY = 1 << 31  # index of the first chunk of KV; those of the description count from 0
_DAMAGED = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.VersionMismatchError)


def chunk_key(number: int, index: int) -> bytes:
    """Key of the chunk `index` of the record that has this number."""
    return number.to_bytes(8, "big") + index.to_bytes(4, "big")  # big-endian, so that the newest number appends


def pages_for(size: int, page_size: int) -> int:
    """Pages that `size` bytes take at most: when all chunks are single pages."""
    return -(-size // (page_size - PAGE_HEADER))


def footprint_of(size: int, tokens: int, page_size: int) -> int:
    """Bytes to book for a record of `size` bytes and `tokens` tokens, in a file of pages of `page_size` bytes."""
    pages = pages_for(size, page_size) + pages_for(about_bytes(tokens), page_size)
    # 136 chunks fill a page of their table; header, stats and what two neighbours leave half empty are the rest
    return (pages + pages // 128 + 4) * page_size


def usable_pages(pages: int) -> int:
    """Pages for records in a file of `pages`, so that removing and writing always have free ones to work with."""
    # a list of all pages as free takes pages / 512, and a transaction holds up to three generations of it; the rest is
    # for the pages of tables that a transaction copies
    return pages - pages // 64 - 512


class DiskFile:
    """An LMDB environment that this process alone has open, and which was checked to be sound.

    Any thread may read; the caller sees to it that one thread at a time writes. `discarded` is the reason why opening
    started with an empty file, None if it did not.
    """

    def __init__(self, folder: Path, capacity: int, progress: Progress | None) -> None:
        """Opens the file; ConfigError if that is impossible. `progress` hears (pages read, of how many)."""
        self.folder = folder
        self.discarded: str | None = None
        self._reading = threading.Lock()  # held while a read transaction keeps freed pages from being reused
        self._turns = 0
        self._env: Any = None
        self._mark: int | None = _claim(folder)
        try:
            # LMDB's table of readers: all of them are dead, for we hold the mark
            (folder / LOCK).unlink(missing_ok=True)
            if (folder / DATA).exists():
                self._require_trust(capacity, progress)
            try:
                self._connect(capacity)
            except _DAMAGED as error:
                self._discard(f"LMDB says: {error}")
                self._connect(capacity)
        except (lmdb.Error, OSError) as error:
            self.close()
            raise ConfigError(
                f"{folder}: the disk tier cannot be opened there ({_reason(error)}); check its permissions and the "
                "space left, or name another folder"
            ) from error
        except BaseException:
            self.close()
            raise

    def _require_trust(self, capacity: int, progress: Progress | None) -> None:
        try:
            state = survey(self.folder / DATA, TABLES, progress)
        except DamagedPages as doubt:
            self._discard(str(doubt))
            return
        pages = capacity // state.page_size
        if state.pages > pages or state.used > usable_pages(pages):
            self._discard(f"its {state.pages * state.page_size} bytes do not fit a capacity of {capacity}")
        elif state.leaked > pages // 128:
            self._discard(f"{state.leaked} of its {state.pages} pages are lost")

    def restart(self, why: str) -> None:
        """Gives up everything that the file holds, and starts with an empty one."""
        capacity = self._env.info()["map_size"]
        self._discard(why)
        self._connect(capacity)

    def _discard(self, why: str) -> None:
        log.warning("%s: the cached KV is discarded and the file made anew: %s", self.folder / DATA, why)
        self.discarded = why
        if self._env is not None:
            self._env.close()
        for name in (DATA, LOCK):
            (self.folder / name).unlink(missing_ok=True)

    def _connect(self, capacity: int) -> None:
        # no writemap: a full disk would be a signal and not an error. No metasync: a power cut may undo the last
        # transaction but not damage the file
        size = capacity - capacity % mmap.ALLOCATIONGRANULARITY
        self._env = lmdb.open(os.fsencode(self.folder), map_size=size, max_dbs=len(TABLES), metasync=False)
        self.tables = {name: self._env.open_db(name) for name in TABLES}
        self.page_size: int = self._env.stat()["psize"]
        self.usable: int = usable_pages(size // self.page_size) * self.page_size

    def close(self) -> None:
        """Lets go of the folder; calling it twice is harmless."""
        with self._reading:
            env, self._env = self._env, None
            if env is not None:
                with contextlib.suppress(lmdb.Error):
                    env.sync(True)
                env.close()
            mark, self._mark = self._mark, None
            if mark is not None:
                os.close(mark)

    # -- transactions

    @contextlib.contextmanager
    def reported(self, doing: str, key: bytes = b"") -> Iterator[None]:
        """A context in which errors of LMDB and of the system become a RecordError, "full" or "io"."""
        try:
            yield
        except (lmdb.Error, OSError) as error:
            if says_full(error):
                reason, advice = "full", "remove records or give the disk more space"
            else:
                reason, advice = "io", "check the disk, and restart the service if this goes on"
            raise RecordError(f"{self.folder}: {doing} failed ({error}); {advice}", reason=reason, key=key) from error

    def require_open(self) -> Any:
        """The LMDB environment; RecordError "closed" once the file is closed."""
        if self._env is None:
            raise RecordError(f"{self.folder}: the disk tier was closed; open it again", reason="closed")
        return self._env

    @contextlib.contextmanager
    def reader(self) -> Iterator[Any]:
        """A read transaction. Its values are views into the file, and invalid once it ends.

        Keep it short: writers that run out of room wait for it.
        """
        with self._reading, self.require_open().begin(buffers=True) as txn:
            yield txn

    @contextlib.contextmanager
    def _writer(self, buffers: bool = False) -> Iterator[Any]:
        try:
            with self.require_open().begin(write=True, buffers=buffers) as txn:
                yield txn
        except lmdb.Error as error:
            require_room(error, self.folder / DATA)
            raise

    def commit(self, put: Callable[[Any, int], int]) -> int:
        """Commits in one transaction what `put(txn, longest run in pages)` writes; returns what `put` returned.

        Where there is no room for long runs, the transaction is undone and `put` called again with a shorter limit.
        """
        with contextlib.suppress(lmdb.MapFullError), self._writer() as txn:
            return put(txn, RUNS[0])
        with self._reading:
            self._turn()
            for longest in RUNS[:-1]:
                with contextlib.suppress(lmdb.MapFullError), self._writer() as txn:
                    return put(txn, longest)
            with self._writer() as txn:
                return put(txn, RUNS[-1])

    def _turn(self) -> None:
        """Commits an empty transaction: LMDB reuses pages from the second transaction after the one that freed them."""
        self._turns += 1
        with self._writer() as txn:
            txn.put(b"turn", self._turns.to_bytes(8, "big"), db=self.tables[TURNS])

    def names(self) -> dict[bytes, str]:
        """What the settings are called whose records may be here, by their short fingerprints."""
        with self.reader() as txn, txn.cursor(db=self.tables[TURNS]) as cursor:
            start = len(_NAME)
            return {
                bytes(key[start:]): bytes(value).decode(errors="replace")
                for key, value in cursor
                if bytes(key[:start]) == _NAME
            }

    def rename(self, names: Mapping[bytes, str]) -> None:
        """Writes down what settings are called, in place of all names before."""
        before = self.names()
        if before == names:
            return

        def put(txn: Any, _: int) -> int:
            for settings in before.keys() - names.keys():
                txn.delete(_NAME + settings, db=self.tables[TURNS])
            for settings, name in names.items():
                txn.put(_NAME + settings, name.encode(errors="replace")[:LONGEST_NAME], db=self.tables[TURNS])
            return len(names)

        self.commit(put)

    # -- chunks

    def longest_chunk(self) -> int:
        """Bytes of data in the longest chunk."""
        return RUNS[0] * self.page_size - PAGE_HEADER

    def append(self, txn: Any, number: int, index: int, data: memoryview, longest: int) -> int:
        """Writes `data` as chunks from `index` on, in runs of at most `longest` pages; returns the index after them.

        `number` is the highest there is.
        """
        chunks, start = [], 0
        for run in RUNS:
            fill = run * self.page_size - PAGE_HEADER
            while run <= longest and (len(data) - start >= fill or (run == RUNS[-1] and start < len(data))):
                chunks.append((chunk_key(number, index), data[start : start + fill]))
                index, start = index + 1, start + fill
        with txn.cursor(db=self.tables[CHUNKS]) as cursor:
            cursor.putmulti(chunks, append=True)
        return index

    def chunks(self, txn: Any, number: int, index: int) -> Iterator[memoryview]:
        """The chunks of a number from `index` on, until one is missing."""
        with txn.cursor(db=self.tables[CHUNKS]) as cursor:
            exists = cursor.set_key(chunk_key(number, index))
            while exists and cursor.key() == chunk_key(number, index):
                yield cursor.value()
                exists, index = cursor.next(), index + 1

    def chunk_sizes(self, txn: Any) -> dict[int, tuple[int, int]]:
        """Bytes of description and of KV that are there, by the number of their chunks."""
        sizes: dict[int, tuple[int, int]] = {}
        with txn.cursor(db=self.tables[CHUNKS]) as cursor:
            for key, value in cursor:
                number, index = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
                about, body = sizes.get(number, (0, 0))
                sizes[number] = (about, body + len(value)) if index >= BODY else (about + len(value), body)
        return sizes

    def delete_chunks(self, number: int) -> None:
        """Deletes all chunks of a number, in transactions of bounded size."""
        limits = iter(REMOVED_PAGES)
        limit, done = next(limits), False
        while not done:
            try:
                done = self._delete_some(number, limit)
            except lmdb.MapFullError:
                # a list of freed pages is a long value itself and may find no run to stand in: keep it to one page
                shorter = next(limits, None)
                if shorter is None:
                    raise
                limit = shorter
                with self._reading:
                    self._turn()

    def _delete_some(self, number: int, limit: int) -> bool:
        prefix, freed = number.to_bytes(8, "big"), 0
        with self._writer(buffers=True) as txn, txn.cursor(db=self.tables[CHUNKS]) as cursor:
            exists = cursor.set_range(prefix)
            while exists and cursor.key()[:8] == prefix:
                if freed >= limit:
                    return False
                freed += len(cursor.value()) // self.page_size + 1
                exists = cursor.delete()
        return True


def check_folder(folder: Path) -> None:
    """Makes sure that a disk tier could be opened in `folder`, which is made. ConfigError if not, as opening it raises;
    for a caller who has seconds of work before that."""
    os.close(_claim(folder))


def _reason(error: Exception) -> object:
    """What the system says of an error, without the path, which the message has already."""
    return getattr(error, "strerror", None) or error


def _claim(folder: Path) -> int:
    """Locks a mark in the folder and returns its descriptor; ConfigError if the folder cannot be this process' alone.

    The kernel lets go of the lock however the process ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in folder.iterdir()} - {"lost+found"}  # what an empty disk holds
        if there and MARK not in there:
            raise ConfigError(
                f"{folder}: holds files that are not of a disk tier, such as {min(there)!r}; name a new or empty folder"
            )
        mark = os.open(folder / MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else _reason(error)
        raise ConfigError(
            f"{folder}: cannot be the folder of the disk tier ({reason}); name one you may write to"
        ) from error
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(mark, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(mark)
        if isinstance(error, BlockingIOError):
            raise ConfigError(
                f"{folder}: another process (pid {owner}) has this disk tier open; stop it or name another folder"
            ) from error
        raise ConfigError(f"{folder}: cannot be locked ({_reason(error)}); name a folder on a local disk") from error
    with contextlib.suppress(OSError):  # the number is for people's eyes
        os.ftruncate(mark, 0)
        os.pwrite(mark, str(os.getpid()).encode(), 0)
    return mark
