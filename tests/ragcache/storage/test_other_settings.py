"""Records of other weights, dtypes or layouts: kept while there is room, the first to go, announced at the start."""

import logging
import random
import resource
from array import array
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcache.errors import RecordError
from ragcache.storage.lmdb_file import DiskFile
from ragcache.storage.lmdb_store import REMOVED_AT_ONCE, DiskStore
from ragcache.storage.other_settings import OtherRecord, in_order_of_removal
from ragcache.storage.record import Record, record_key, root_key
from tests.props.budget import examples
from tests.props.disk_records import FINGERPRINT, SMALLEST, bytes_of, no_orphans, opened, put, read, record

OTHER = b"another model"
MIB = 1 << 20


def of_other(size: int, *tokens: int, parent: Record | None = None, fingerprint: bytes = OTHER) -> Record:
    above = root_key(fingerprint, "default") if parent is None else parent.key
    ids = array("i", tokens)
    return Record(record_key(above, ids), above, "default", f"doc {tokens[0]}", ids, size, 1, tokens[0], 1, 0.5)


def opened_as(folder: Path, fingerprint: bytes, name: str = "", *, replace: bool = False) -> DiskStore:
    return DiskStore.open(folder, SMALLEST, fingerprint, name=name, replace=replace)


def test_they_are_kept_and_found_again_by_their_own_settings(tmp_path, caplog):
    ours = [record(5000, 1), record(6000, 2)]
    with DiskStore.open(tmp_path, SMALLEST, b"model, weights, dtype, layout", name="tiny, KV in float32") as store:
        put(store, *ours)
        own = store.used
        assert (store.others.records, caplog.records) == (0, [])
    for fingerprint, others, known in ((OTHER, 2, "2 of tiny, KV in float32"), (b"a third", 3, "1 of another")):
        caplog.clear()
        with opened_as(tmp_path, fingerprint, "another") as store:
            assert store.records() == []
            assert not store.swept
            assert (store.others.records, store.others.removed) == (others, 0)
            assert store.used == store.others.bytes >= own
            assert ours[0].key not in store
            with pytest.raises(RecordError, match="not there"):
                read(store, ours[0])
            put(store, of_other(7000, 3, fingerprint=fingerprint))
        (said,) = caplog.records
        assert said.levelno == logging.WARNING
        assert f"{tmp_path}: {others} segments (" in said.message
        assert "belong to other weights, another dtype or layout" in said.message
        assert known in said.message
        assert "--disk-cache-replace" in said.message
    with opened(tmp_path) as store:
        assert {each.key for each in store.records()} == {each.key for each in ours}
        assert all(read(store, each) == bytes_of(each) for each in ours)
        assert store.others.records == 2
    for fingerprint in (OTHER, b"a third"):
        with opened_as(tmp_path, fingerprint, replace=True) as store:
            store.remove([each.key for each in store.records()])
    no_orphans(tmp_path)


def test_replace_removes_them_at_once_and_says_so(tmp_path, caplog):
    with opened(tmp_path) as store:
        put(store, record(2 * MIB, 1), record(6000, 2))
    with opened_as(tmp_path, OTHER, replace=True) as store:
        assert store.swept == Counter(fingerprint=2)
        assert (store.used, store.others.records, store.others.removed) == (0, 0, 2)
    assert "2 segments (2." in caplog.text
    assert "are removed" in caplog.text
    caplog.clear()
    with DiskStore.open(tmp_path, SMALLEST, FINGERPRINT, replace=True) as store:
        assert (store.records(), store.others.records, caplog.records) == ([], 0, [])
        assert not store.swept
    no_orphans(tmp_path)


def test_a_replacement_that_fails_counts_what_is_gone(tmp_path, caplog, monkeypatch):
    with opened(tmp_path) as store:
        put(store, *(record(20, n) for n in range(REMOVED_AT_ONCE + 10)))
    commit, calls = DiskFile.commit, iter(range(9))

    def failing(file: DiskFile, put: Any) -> int:
        if next(calls):  # all but the first
            raise OSError(5, "Input/output error")
        return commit(file, put)

    with monkeypatch.context() as patched:
        patched.setattr(DiskFile, "commit", failing)
        store = opened_as(tmp_path, OTHER, replace=True)
    with store:
        assert store.swept == Counter(fingerprint=REMOVED_AT_ONCE)
        assert store.others.records == 10
    assert "is not removed or named" in caplog.text


def test_our_records_take_their_room_and_no_more(tmp_path):
    """The folder's capacity bounds both together at any time, and our own record is never what makes room for ours."""
    with opened(tmp_path) as store:
        put(store, *(record(MIB, n) for n in range(8)))
        one = store.footprint(MIB, 1)
    with opened_as(tmp_path, OTHER) as store:
        fit = store.usable // one
        for count in range(1, fit + 1):
            put(store, of_other(MIB, count))
            assert store.used <= store.usable
            assert len(store) == count
            assert store.others.records == min(8, fit - count)
            assert store.others.removed == 8 - store.others.records
        with pytest.raises(RecordError) as caught:
            put(store, of_other(MIB, 99))
        assert caught.value.reason == "full"
        assert len(store) == fit
    with opened(tmp_path) as store:
        assert store.records() == []


def test_a_record_that_cannot_be_written_costs_the_others_nothing(tmp_path):
    with opened(tmp_path) as store:
        put(store, *(record(MIB, n) for n in range(13)))
    with opened_as(tmp_path, OTHER) as store:
        before = store.others
        orphan = of_other(MIB, 2, parent=of_other(MIB, 1))
        with pytest.raises(RecordError) as caught:
            put(store, orphan)
        assert caught.value.reason == "missing"
        assert store.others == before


def test_what_is_left_of_them_is_whole_paths(tmp_path):
    """Children go before parents, so that what is left is of use to the old settings."""
    top = [record(MIB, n) for n in range(3)]
    below = [record(MIB, n + 10, parent=top[n]) for n in range(3)]
    with opened(tmp_path) as store:
        put(store, *top, *below)
    with opened_as(tmp_path, OTHER) as store:
        fit = store.usable // store.footprint(MIB, 1)
        put(store, *(of_other(MIB, n) for n in range(fit - 3)))
        assert store.others.records == 3
    with opened(tmp_path) as store:
        assert not store.swept
        assert len(store.records()) == 3
        assert all(read(store, each) == bytes_of(each) for each in store.records())


def test_damaged_others_are_swept_as_ever(tmp_path, monkeypatch):
    from ragcache.storage.record import Header

    pack = Header.pack
    with opened(tmp_path) as store:
        put(store, record(3000, 1))
        monkeypatch.setattr(Header, "pack", lambda header: pack(header)[:-1] + b"?")
        put(store, record(3000, 2))
        monkeypatch.undo()
    with opened_as(tmp_path, OTHER) as store:
        assert store.swept == Counter(checksum=1)
        assert store.others.records == 1


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(0, 9)), max_size=30), st.randoms())
def test_the_order_takes_leaves_first_and_whole_settings_one_after_the_other(drawn, rng):
    records: list[OtherRecord] = []
    for number, (setting, parent, last_use) in enumerate(drawn):
        same = [each for each in records if each.settings == bytes([setting])]
        above = same[parent % len(same)].key if same and parent else b"root"
        records.append(OtherRecord(bytes([number]), above, bytes([setting]), number, 1, last_use))
    shuffled = records[:]
    rng.shuffle(shuffled)
    order = in_order_of_removal(shuffled)
    assert sorted(each.number for each in order) == list(range(len(records)))
    place = {each.key: at for at, each in enumerate(order)}
    assert all(each.parent == b"root" or place[each.key] < place[each.parent] for each in records)
    changes = sum(first.settings != second.settings for first, second in pairwise(order))
    assert changes == max(0, len({each.settings for each in records}) - 1)
    if order:  # what was written last is of the settings that go last
        assert order[-1].settings == records[-1].settings


def test_what_was_used_longest_ago_goes_first():
    made = [OtherRecord(bytes([n]), b"root", b"s", n, 1, last_use) for n, last_use in enumerate([5, 1, 3])]
    child = OtherRecord(b"child", bytes([1]), b"s", 9, 1, 4)
    assert [each.number for each in in_order_of_removal([*made, child])] == [2, 9, 1, 0]


def test_a_store_killed_while_others_make_room_opens_whole(tmp_path):
    """Removal of others is that of any record: what a crash leaves of it is swept, and what is visible is whole."""
    rng = random.Random(1)
    with opened(tmp_path) as store:
        put(store, *(record(MIB, n) for n in range(12)))
    with opened_as(tmp_path, OTHER) as store:
        interrupted = iter([False] * rng.randrange(3) + [True])
        deleted = store._file.delete_chunks

        def delete(number: int) -> None:
            if next(interrupted, False):
                raise KeyboardInterrupt
            deleted(number)

        store._file.delete_chunks = delete
        with pytest.raises(KeyboardInterrupt):
            put(store, of_other(6 * MIB, 1))
    with opened(tmp_path) as store:
        assert set(store.swept) <= {"unfinished"}
        assert all(read(store, each) == bytes_of(each) for each in store.records())
        assert 0 < len(store.records()) < 12


def test_a_disk_that_they_fill_has_room_for_ours(tmp_path):
    """The books have room and the disk has none: others make room there, too, and not our own records."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path) as store:
        put(store, *(record(MIB, n) for n in range(6)))
    with opened_as(tmp_path, OTHER) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, before[1]))
        try:
            ours = [of_other(MIB, n) for n in range(4)]
            put(store, *ours)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert all(read(store, each) == bytes_of(each) for each in ours)
        assert 0 < store.others.removed <= 6
