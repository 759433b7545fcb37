"""Records for the tests of the disk tier: their bytes follow from their names, in every process."""

import random
from array import array
from pathlib import Path

import pytest

from ragcache.errors import RecordError
from ragcache.storage.lmdb_file import TABLES
from ragcache.storage.lmdb_store import DiskStore
from ragcache.storage.lmdb_survey import survey
from ragcache.storage.record import Record, record_key, root_key

FINGERPRINT = b"model, weights, dtype, layout"
SMALLEST = 16 << 20


def opened(folder: Path | str, capacity: int = SMALLEST) -> DiskStore:
    return DiskStore.open(Path(folder), capacity, FINGERPRINT)


def record(
    size: int,
    *tokens: int,
    parent: Record | None = None,
    namespace: str = "default",
    label: str | None = None,
    key: bytes | None = None,
) -> Record:
    above = root_key(FINGERPRINT, namespace) if parent is None else parent.key
    ids = array("i", tokens)
    name = f"doc {tokens[0]}" if label is None else label
    return Record(key or record_key(above, ids), above, namespace, name, ids, size, size % 7, tokens[0], 1, 0.5)


def bytes_of(of: Record) -> bytes:
    return random.Random(of.key + of.size.to_bytes(8, "big")).randbytes(of.size)


def failed(reason: str, call, *arguments) -> RecordError:
    with pytest.raises(RecordError) as caught:
        call(*arguments)
    assert caught.value.reason == reason
    return caught.value


def read(store: DiskStore, of: Record) -> bytes:
    buffer = bytearray(of.size)
    store.read_into(of.key, memoryview(buffer))
    return bytes(buffer)


def put(store: DiskStore, *records: Record) -> None:
    for each in records:
        store.write(each, memoryview(bytes_of(each)))


def no_orphans(folder: Path) -> None:
    """An emptied store takes a handful of pages."""
    with opened(folder) as store:
        store.remove([each.key for each in store.records()])
        assert store.used == 0
    surveyed = survey(folder / "data.mdb", TABLES)
    assert surveyed.used <= 4  # two meta pages, the table of tables, the table of turns
    assert surveyed.leaked == 0
