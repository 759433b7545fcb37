"""DiskFile: the one LMDB file of a disk tier. Who may open it, what is to be believed of it, how room in it is kept.

LMDB never overwrites a page in use, so each transaction needs free pages besides those of its data, and even a
removal does: a file without free pages could not be emptied any more. `usable` leaves them out. Bytes are stored as
chunks, runs of 256 pages (1 MiB), then 16, then single ones, each filled but for the 16 bytes LMDB puts in front, so
that what one chunk leaves another can take. When the free pages are so scattered that no long run is left, shorter
runs are written: pages that are free can always be filled.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb

from ragcache.errors import ConfigError, RecordError
from ragcache.storage.lmdb_survey import PAGE_HEADER, Progress, Untrusted, survey

log = logging.getLogger(__name__)

MARK, DATA, LOCK = "ragcache-disk.lock", "data.mdb", "lock.mdb"
HEADERS, STATS, CHUNKS, TURNS = TABLES = (b"headers", b"stats", b"chunks", b"turns")
RUNS = (256, 16, 1)  # pages a chunk takes
REMOVED_PAGES = (8192, 128)  # a transaction stops removing once it has freed so many; the second if room is scattered
BODY = 1 << 31  # index of the first chunk of KV; those of the description count from 0
_DAMAGED = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.VersionMismatchError)
_FULL = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def chunk_key(number: int, index: int) -> bytes:
    return number.to_bytes(8, "big") + index.to_bytes(4, "big")  # big-endian, so that the newest number appends


def pages_for(size: int, page_size: int) -> int:
    """Pages that so many bytes take at most: when they all stand in single ones."""
    return -(-size // (page_size - PAGE_HEADER))


def usable_pages(pages: int) -> int:
    # a list of all pages as free takes pages / 512, and a transaction holds up to three generations of it; the rest is
    # for the pages of tables that a transaction copies
    return pages - pages // 64 - 512


class DiskFile:
    """An LMDB environment that this process alone has open, and which was found sound.

    Any thread may read; writes come from one thread at a time, which the caller sees to. `discarded` says why opening
    started anew, if it did.
    """

    def __init__(self, folder: Path, capacity: int, progress: Progress | None) -> None:
        """Opens the file, ConfigError if that is impossible; `progress` hears of pages read."""
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
                f"{folder}: the disk tier cannot be opened there ({error}); check its permissions and the space left, "
                "or name another folder"
            ) from error
        except BaseException:
            self.close()
            raise

    def _require_trust(self, capacity: int, progress: Progress | None) -> None:
        try:
            found = survey(self.folder / DATA, TABLES, progress)
        except Untrusted as doubt:
            self._discard(str(doubt))
            return
        pages = capacity // found.page_size
        if found.pages > pages or found.used > usable_pages(pages):
            self._discard(f"its {found.pages * found.page_size} bytes do not fit a capacity of {capacity}")
        elif found.leaked > pages // 128:
            self._discard(f"{found.leaked} of its {found.pages} pages are lost")

    def restart(self, why: str) -> None:
        """Gives up all that the file holds."""
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
        self._env = lmdb.open(str(self.folder), map_size=size, max_dbs=len(TABLES), metasync=False)
        self.tables = {name: self._env.open_db(name) for name in TABLES}
        self.page_size: int = self._env.stat()["psize"]
        self.usable = usable_pages(size // self.page_size) * self.page_size

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
        """What LMDB or the system raise inside becomes a RecordError."""
        try:
            yield
        except (lmdb.Error, OSError) as error:
            if isinstance(error, lmdb.MapFullError | lmdb.DiskError) or any(text in str(error) for text in _FULL):
                reason, advice = "full", "remove records or give the disk more space"
            else:
                reason, advice = "io", "check the disk, and restart the service if this goes on"
            raise RecordError(f"{self.folder}: {doing} failed ({error}); {advice}", reason=reason, key=key) from error

    def require_open(self) -> Any:
        if self._env is None:
            raise RecordError(f"{self.folder}: the disk tier was closed; open it again", reason="closed")
        return self._env

    @contextlib.contextmanager
    def reader(self) -> Iterator[Any]:
        """A read transaction whose values are views into the file, dead when it ends. Keep it short: writers that run
        out of room wait for it."""
        with self._reading, self.require_open().begin(buffers=True) as txn:
            yield txn

    @contextlib.contextmanager
    def _writer(self, buffers: bool = False) -> Iterator[Any]:
        try:
            with self.require_open().begin(write=True, buffers=buffers) as txn:
                yield txn
        except lmdb.Error as error:
            # LMDB takes it for an I/O error when a disk runs full amid a write: see whether the file can grow
            if os.strerror(errno.EIO) in str(error):
                with (self.folder / DATA).open("r+b") as file:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, self.page_size)
            raise

    def commit(self, put: Callable[[Any, int], int]) -> int:
        """One transaction of what `put` writes, which is told the longest run to write; called again with shorter
        ones, each time from nothing, when there is no room for it. Gives what `put` returned."""
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
        """LMDB reuses the pages that a transaction freed from the second one after it: this is the first."""
        self._turns += 1
        with self._writer() as txn:
            txn.put(b"turn", self._turns.to_bytes(8, "big"), db=self.tables[TURNS])

    # -- chunks

    def longest_chunk(self) -> int:
        return RUNS[0] * self.page_size - PAGE_HEADER

    def append(self, txn: Any, number: int, index: int, data: memoryview, longest: int) -> int:
        """Writes `data` as chunks from `index` on, in runs of at most `longest` pages; gives the index after them.
        `number` is the highest there is."""
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
        """The chunks that follow each other from `index` on."""
        with txn.cursor(db=self.tables[CHUNKS]) as cursor:
            found = cursor.set_key(chunk_key(number, index))
            while found and cursor.key() == chunk_key(number, index):
                yield cursor.value()
                found, index = cursor.next(), index + 1

    def chunk_sizes(self, txn: Any) -> dict[int, tuple[int, int]]:
        """Bytes of description and of KV that are there, by number."""
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
            found = cursor.set_range(prefix)
            while found and cursor.key()[:8] == prefix:
                if freed >= limit:
                    return False
                freed += len(cursor.value()) // self.page_size + 1
                found = cursor.delete()
        return True


def _claim(folder: Path) -> int:
    """Marks the folder as ours and locks the mark; the kernel lets go of the lock however the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in folder.iterdir()} - {"lost+found"}  # what an empty disk holds
        if there and MARK not in there:
            raise ConfigError(
                f"{folder}: holds files that are not of a disk tier, such as {min(there)!r}; name a new or empty folder"
            )
        mark = os.open(folder / MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be the folder of the disk tier ({error}); name one you may write to"
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
        raise ConfigError(f"{folder}: cannot be locked ({error}); name a folder on a local disk") from error
    with contextlib.suppress(OSError):  # the number is for people's eyes
        os.ftruncate(mark, 0)
        os.pwrite(mark, str(os.getpid()).encode(), 0)
    return mark
