"""DiskStore: the bytes of the disk tier, as records of KV that survive restarts and kill -9.

It knows bytes and keys; which records are worth their place is decided elsewhere. A record's description and KV are
written as chunks under a number of its own, in transactions of bounded size; its header comes with the last of them
and makes it visible. Removal deletes the header first. A crash in between leaves chunks without a header, which the
next opening removes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmdb
import numpy as np
import xxhash

from ragcache.errors import ConfigError, RecordError
from ragcache.sizes import LEAST_DISK, too_small
from ragcache.storage.interface import OtherRecords
from ragcache.storage.lmdb_chunks import flat, read_kv, write_record
from ragcache.storage.lmdb_file import HEADERS, STATS, DiskFile, footprint_of
from ragcache.storage.lmdb_scan import Place, Scan, contents, in_order, read_record, scan
from ragcache.storage.lmdb_survey import Progress
from ragcache.storage.other_settings import OtherRecord, announcement, total
from ragcache.storage.record import Header, Record, Stats, pack_stats, record_key, root_key, short_fingerprint
from retrieval.full_disk import says_full

log = logging.getLogger(__name__)

REMOVED_AT_ONCE = 256  # headers a transaction takes away


class DiskStore:
    """Records of KV in a folder that one process at a time has open.

    Any thread may call any method: reads go on beside a write, writes and removals wait for each other. A method that
    fails raises RecordError and leaves the store as it was, but for what a removal had done already.
    """

    def __init__(
        self, file: DiskFile, fingerprint: bytes, progress: Progress | None, name: str = "", *, replace: bool = False
    ) -> None:
        self.swept: Counter[str] = Counter()
        self._file = file
        self._fingerprint = fingerprint
        self._writing = threading.RLock()
        self._visible: dict[bytes, Place] = {}
        self._others: dict[bytes, OtherRecord] = {}  # in the order in which they make room
        self._leftovers: dict[int, int] = {}  # footprints by number, of chunks that no header needs or not yet
        self._next = 1
        self._load(progress)
        self._settle_others(name, replace=replace)

    @classmethod
    def open(
        cls,
        folder: Path,
        capacity: int,
        fingerprint: bytes,
        *,
        name: str = "",
        replace: bool = False,
        progress: Progress | None = None,
    ) -> Self:
        """Opens the store in `folder`, or makes one. Its data file takes at most `capacity` bytes.

        Records of another fingerprint stay, invisible, until `write` needs their room, or with `replace` are removed at
        once; a warning says what there is. `name` is what people call this fingerprint's settings, for such warnings.

        Records that are "unfinished", "truncated", damaged ("checksum"), of another "format", or whose "parent" is
        gone are removed and counted in `swept`, as are those of another "fingerprint" that were replaced. A file that
        cannot be trusted as a whole, or that outgrew a lower `capacity`, is discarded with a warning that says why
        (`discarded`). `progress` hears (done, of how many) in two rounds: pages of the file, then records.

        ConfigError: `capacity` is below 16 MiB, the folder cannot be written or holds other things, or another process
        has it open.
        """
        if capacity < LEAST_DISK:
            raise ConfigError(too_small(capacity))
        file = DiskFile(folder, capacity, progress)
        try:
            store = cls(file, fingerprint, progress, name, replace=replace)
        except BaseException:
            file.close()
            raise
        if gone := {reason: count for reason, count in store.swept.items() if reason != "fingerprint"}:
            log.warning("%s: records that are of no use were removed: %s", folder, gone)
        return store

    @property
    def folder(self) -> Path:
        """Where the data file lies."""
        return self._file.folder

    @property
    def discarded(self) -> str | None:
        """The reason why opening gave up everything that was there; None if it did not."""
        return self._file.discarded

    @property
    def page_size(self) -> int:
        """Bytes of a page of the file."""
        return self._file.page_size

    @property
    def usable(self) -> int:
        """Bytes that the footprints of all records may sum to."""
        return self._file.usable

    @property
    def used(self) -> int:
        """Bytes that are taken, in footprints: by what is visible, by other settings, by what waits for its removal."""
        places = list(self._visible.values())  # at once: another thread may write
        return sum(place.footprint for place in places) + self.others.bytes + sum(list(self._leftovers.values()))

    @property
    def others(self) -> OtherRecords:
        """What is left of other settings, and how much of it has made room."""
        left = list(self._others.values())
        return total(left, removed=self._others_at_start - len(left))

    def footprint(self, size: int, tokens: int) -> int:
        """Bytes to book for a record of `size` bytes of KV and `tokens` tokens of its own.

        What fits into `usable` by this measure fits into the file, whatever was written and removed before: the record
        takes as much when all of it stands in single pages, its share of the tables included.
        """
        return footprint_of(size, tokens, self._file.page_size)

    def __len__(self) -> int:
        return len(self._visible)

    def __contains__(self, key: bytes) -> bool:
        return key in self._visible

    def records(self) -> list[Record]:
        """The visible records, parents before children; those whose parent was removed are left out."""
        visible = []
        with self._file.reported("listing the records"), self._file.reader() as txn:
            for key in list(self._visible):
                value = txn.get(key, db=self._file.tables[HEADERS])
                with contextlib.suppress(RecordError):  # damaged since it was opened: reading it will tell
                    if value is not None:
                        visible.append(read_record(self._file, txn, Header.unpack(key, bytes(value))))
        return in_order(visible, self._fingerprint)

    # -- writing

    def write(self, record: Record, payload: memoryview) -> None:
        """Stores a record, in place of the one under its key if there is one. It is visible once this returns.

        Records of other settings make room for it, where there is not enough in the books or on the disk.
        `payload` must not change meanwhile. RecordError: "full" if the books or the disk have no room, "missing" if
        the record before it on its path is not there, "io". ValueError if key, size and payload contradict each other.
        """
        view = flat(payload)
        if view.nbytes != record.size or not record.size:
            raise ValueError(f"record {record.label!r} of {record.size} bytes has a payload of {view.nbytes}")
        if record.key != record_key(record.parent, record.tokens):
            raise ValueError(f"record {record.label!r} has another key than its parent and tokens give")
        about = record.about()
        with self._writing, self._file.reported(f"writing {record.label!r}", record.key):
            self.remove([record.key])
            footprint = self.footprint(record.size, len(record.tokens))
            self._require_place(record, footprint)
            while True:
                try:
                    self._write_as_next(record, memoryview(about), view)
                    return
                except (lmdb.Error, OSError) as error:  # books with room, on a disk that others fill
                    if not says_full(error) or not self._take_from_others(2 * footprint):
                        raise

    def _write_as_next(self, record: Record, about: memoryview, payload: memoryview) -> None:
        """Writes a record under a number of its own; what could not be completed is removed."""
        number, self._next = self._next, self._next + 1
        header = Header(
            record.key,
            number,
            len(about),
            record.size,
            record.parent,
            short_fingerprint(self._fingerprint),
            xxhash.xxh3_64_digest(about),
            xxhash.xxh3_128_digest(payload),
        )
        self._leftovers[number] = self.footprint(record.size, len(record.tokens))
        try:
            write_record(self._file, header, record.stats, about, payload)
        except BaseException:
            self._clear_leftovers()
            raise
        self._visible[record.key] = Place(number, self._leftovers.pop(number))

    def _take_from_others(self, size: int) -> int:
        """Removes records of other settings until `size` bytes are free of them; returns their number."""
        keys, left = [], size
        for key, record in self._others.items():
            if left > 0:
                keys.append(key)
                left -= record.footprint
        for start in range(0, len(keys), REMOVED_AT_ONCE):
            self._hide(keys[start : start + REMOVED_AT_ONCE])
        self._clear_leftovers()
        return len(keys)

    def _require_place(self, record: Record, footprint: int) -> None:
        """RecordError unless the record's parent is there and the books have room, or other settings make it."""
        if record.parent not in self._visible and record.parent != root_key(self._fingerprint, record.namespace):
            raise RecordError(
                f"{self.folder}: the record before {record.label!r} on its path is not there; write that one first",
                reason="missing",
                key=record.key,
            )
        self._take_from_others(self.used + footprint - self.usable)
        if (used := self.used) + footprint > self.usable:
            raise RecordError(
                f"{self.folder}: {record.label!r} takes {footprint} bytes, and {used} of {self.usable} are taken; "
                "remove other records first",
                reason="full",
                key=record.key,
            )

    def update(self, stats: Mapping[bytes, Stats]) -> None:
        """Writes down what the policies learned, all or nothing; keys that are not there are ignored."""
        with self._writing, self._file.reported("writing down what was learned"):

            def put(txn: Any, _: int) -> int:
                for key, learned in known.items():
                    txn.put(key, pack_stats(learned), db=self._file.tables[STATS])
                return len(known)

            known = {key: learned for key, learned in stats.items() if key in self._visible}
            self._file.commit(put)

    # -- removing

    def remove(self, keys: Iterable[bytes]) -> None:
        """Removes records; keys that are not there are ignored.

        Take children with their parents: without them they cannot be used, and the next opening sweeps them.
        """
        with self._writing, self._file.reported("removing records"):
            self._file.require_open()
            known = [key for key in dict.fromkeys(keys) if key in self._visible]
            for start in range(0, len(known), REMOVED_AT_ONCE):
                self._hide(known[start : start + REMOVED_AT_ONCE])
            self._clear_leftovers()

    def _hide(self, keys: list[bytes]) -> None:
        """Deletes headers, which makes their chunks leftovers."""

        def put(txn: Any, _: int) -> int:
            for key in keys:
                txn.delete(key, db=self._file.tables[HEADERS])
                txn.delete(key, db=self._file.tables[STATS])
            return len(keys)

        self._file.commit(put)
        for key in keys:
            for places in (self._visible, self._others):
                if (place := places.pop(key, None)) is not None:
                    self._leftovers[place.number] = place.footprint

    def _clear_leftovers(self) -> None:
        """Deletes chunks that no header needs. Where that fails they stay booked and are tried again next time."""
        for number in list(self._leftovers):
            try:
                self._file.delete_chunks(number)
            except (lmdb.Error, OSError) as error:
                log.warning("%s: removed KV still takes space: %s", self.folder, error)
                return
            del self._leftovers[number]

    # -- reading

    def read_into(self, key: bytes, buffer: memoryview) -> None:
        """The KV of a record into `buffer`, which is writable and has exactly its size (ValueError if not).

        The checksum is that of what landed in `buffer`. RecordError: "missing", "truncated", "checksum", "io"; `buffer`
        then holds anything.
        """
        view = flat(buffer)
        if view.readonly:
            raise ValueError("the buffer to read into is read-only")
        target = np.frombuffer(view, dtype=np.uint8)

        def copy(start: int, source: np.ndarray) -> np.ndarray:
            part = target[start : start + len(source)]
            np.copyto(part, source)
            return part

        with self._file.reported("reading a record", key):
            header = self._header(key)
            if header.size != len(target):
                raise ValueError(f"the buffer has {len(target)} bytes and the record {header.size}")
            self._check(header, copy)

    def verify(self, progress: Progress | None = None) -> dict[bytes, RecordError]:
        """Reads every record; returns what is wrong with damaged ones, by key. `progress` hears (read, of how many)."""
        damaged = {}
        keys = list(self._visible)
        for done, key in enumerate(keys, start=1):
            try:
                with self._file.reported("reading a record", key):
                    self._check(self._header(key), lambda _, source: source)
            except RecordError as error:
                if error.reason == "closed":
                    raise
                if key in self._visible:  # or it was removed meanwhile
                    damaged[key] = error
            if progress is not None:
                progress(done, len(keys))
        return damaged

    def _header(self, key: bytes) -> Header:
        with self._file.reader() as txn:
            value = txn.get(key, db=self._file.tables[HEADERS]) if key in self._visible else None
            if value is not None:
                return Header.unpack(key, bytes(value))
        raise RecordError(f"{self.folder}: record {key.hex()[:16]} is not there", reason="missing", key=key)

    def _check(self, header: Header, take: Callable[[int, np.ndarray], np.ndarray]) -> None:
        """Hands a record's KV to `take`, a slice at a time; RecordError if what it returns fails the checksum."""
        damage = read_kv(self._file, header, take)
        if damage is None:
            return
        reason, what = damage, "is damaged (wrong checksum); remove it"
        if damage == "truncated" and header.key not in self._visible:
            reason, what = "missing", "was removed while it was read"
        elif damage == "truncated":
            what = "is not complete; remove it"
        name = f"{self.folder}: the KV of record {header.key.hex()[:16]}"
        raise RecordError(f"{name} {what}", reason=reason, key=header.key)

    # -- opening and closing

    def _load(self, progress: Progress | None) -> None:
        """Makes the sound records visible, keeps those of other settings, and removes everything else."""
        try:
            found = scan(self._file, self._fingerprint, progress)
        except lmdb.Error as error:
            self._file.restart(f"LMDB says: {error}")
            found = Scan()
        there = contents(found, self._fingerprint, self._file.page_size)
        self._visible, self._others, self._leftovers = there.visible, there.others, there.leftovers
        self._others_at_start, self._next = len(there.others), there.next_number
        self.swept += there.swept
        try:
            if there.useless:
                self._hide(there.useless)
            self._clear_leftovers()
        except (lmdb.Error, OSError) as error:
            # they are invisible all the same, and the next opening removes them
            log.warning("%s: %d swept records still take space: %s", self.folder, len(there.useless), error)

    def _settle_others(self, name: str, *, replace: bool) -> None:
        """Says what other settings have left, and removes it if it is to `replace` that. Writes down our own name."""
        others, own = list(self._others.values()), short_fingerprint(self._fingerprint)
        try:
            names = self._file.names()
            if others:
                log.warning("%s: %s", self.folder, announcement(others, names, replaced=replace))
            if others and replace:
                try:
                    self._take_from_others(sum(record.footprint for record in others))
                finally:  # as many as are gone, if that fails
                    self.swept += Counter(fingerprint=len(others) - len(self._others))
            left = {own, *(record.settings for record in self._others.values())}
            known = names | ({own: name} if name else {})
            self._file.rename({settings: known[settings] for settings in left & known.keys()})
        except (lmdb.Error, OSError) as error:
            log.warning("%s: what other settings have left is not removed or named: %s", self.folder, error)

    def close(self) -> None:
        """Lets go of the folder; calling it twice is harmless, everything else is then RecordError "closed"."""
        with self._writing:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()
