"""Scan: which records of a data file are sound, what is wrong with the others, and what becomes of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ragcache.errors import RecordError
from ragcache.storage.lmdb_file import HEADERS, STATS, DiskFile, footprint_of
from ragcache.storage.lmdb_survey import Progress
from ragcache.storage.other_settings import OtherRecord, in_order_of_removal
from ragcache.storage.record import Header, Record, Stats, root_key, short_fingerprint, unpack_stats


class Place(NamedTuple):
    """Where a visible record's chunks are, and what is booked for them."""

    number: int
    footprint: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a file holds: `sound` records with the numbers of their chunks, and what is wrong with `bad` ones, by key.

    `others` are complete records of other fingerprints, with their footprints and last uses. `sizes` are the bytes of
    description and of KV that are there, by the number of their chunks, needed or not.
    """

    sound: dict[bytes, tuple[Record, int]] = field(default_factory=dict)
    bad: dict[bytes, str] = field(default_factory=dict)
    others: list[OtherRecord] = field(default_factory=list)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a store begins with: `visible` records, those of `others` in the order in which they make room, `useless`
    ones that are to be removed, and `leftovers`: footprints by number of chunks that no header needs then.

    `swept` counts what is removed, by reason; `next_number` is that of the next record's chunks.
    """

    visible: dict[bytes, Place]
    others: dict[bytes, OtherRecord]
    useless: list[bytes]
    leftovers: dict[int, int]
    swept: Counter[str]
    next_number: int


def contents(found: Scan, fingerprint: bytes, page_size: int) -> Contents:
    """What a store of this fingerprint makes of a file with these records, in pages of `page_size` bytes."""
    visible = {}
    for record in in_order((record for record, _ in found.sound.values()), fingerprint):
        number = found.sound[record.key][1]
        visible[record.key] = Place(number, footprint_of(record.size, len(record.tokens), page_size))
    bad = found.bad | dict.fromkeys(found.sound.keys() - visible.keys(), "parent")
    others = {record.key: record for record in in_order_of_removal(found.others)}
    kept = {place.number for place in visible.values()} | {each.number for each in others.values()}
    leftovers = {
        number: footprint_of(body, about // 4, page_size)
        for number, (about, body) in found.sizes.items()
        if number not in kept
    }
    # each bad record may have left chunks; if there are more, a crash left them without a record
    unfinished = max(0, len(leftovers) - len(bad))
    swept = +(Counter(bad.values()) + Counter(unfinished=unfinished))
    return Contents(visible, others, list(bad), leftovers, swept, max(found.sizes, default=0) + 1)


def scan(file: DiskFile, fingerprint: bytes, progress: Progress | None) -> Scan:
    """Reads all headers and descriptions, and no KV. `progress` hears (records done, of how many)."""
    short = short_fingerprint(fingerprint)
    with file.reader() as txn, txn.cursor(db=file.tables[HEADERS]) as cursor:
        result = Scan(sizes=file.chunk_sizes(txn))
        total = txn.stat(file.tables[HEADERS])["entries"]
        for done, (view, value) in enumerate(cursor, start=1):
            key = bytes(view)
            try:
                header = Header.unpack(key, bytes(value))
                if result.sizes.get(header.number) != (header.about_size, header.size):
                    result.bad[key] = "truncated"
                elif header.fingerprint != short:
                    result.others.append(_other_record(file, txn, header))
                else:
                    result.sound[key] = read_record(file, txn, header), header.number
            except RecordError as error:
                result.bad[key] = error.reason
            if progress is not None:
                progress(done, total)
    return result


def _other_record(file: DiskFile, txn: Any, header: Header) -> OtherRecord:
    footprint = footprint_of(header.size, header.about_size // 4, file.page_size)
    last_use = _stats(file, txn, header)[1]
    return OtherRecord(header.key, header.parent, header.fingerprint, header.number, footprint, last_use)


def _stats(file: DiskFile, txn: Any, header: Header) -> Stats:
    value = txn.get(header.key, db=file.tables[STATS])
    return unpack_stats(None if value is None else bytes(value))


def read_record(file: DiskFile, txn: Any, header: Header) -> Record:
    """The record of a header, with its stats; RecordError if its description is damaged."""
    about = b"".join(file.chunks(txn, header.number, 0))
    return Record.read(header, about, _stats(file, txn, header))


def in_order(records: Iterable[Record], fingerprint: bytes) -> list[Record]:
    """Sorts records so that parents come before children; leaves out those without an unbroken path to a root."""
    children: dict[bytes, list[Record]] = defaultdict(list)
    for record in records:
        children[record.parent].append(record)
    namespaces = {record.namespace for siblings in children.values() for record in siblings}
    ordered = [record for name in sorted(namespaces) for record in children[root_key(fingerprint, name)]]
    for record in ordered:  # grows meanwhile
        ordered.extend(children[record.key])
    return ordered
