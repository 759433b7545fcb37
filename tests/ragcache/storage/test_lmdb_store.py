"""The disk tier gives back what it was given or says that it cannot, through restarts and within its books."""

import dataclasses
import threading
from array import array
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragcache.storage.lmdb_file import TABLES
from ragcache.storage.lmdb_store import DiskStore
from ragcache.storage.lmdb_survey import survey
from ragcache.storage.record import Header, Record, record_key, root_key
from tests.props.budget import examples
from tests.props.disk_records import (
    FINGERPRINT,
    SMALLEST,
    bytes_of,
    failed,
    no_orphans,
    opened,
    put,
    read,
    record,
)

PAGE = 4096
RUN = 256 * PAGE - 16  # bytes that fill the longest chunk


@pytest.mark.parametrize(
    "size",
    [1, 15, 2000, PAGE - 17, PAGE - 16, PAGE - 15, PAGE, 16 * PAGE - 16, RUN - 1, RUN, RUN + 1, 2 * RUN, 5_000_000],
)
def test_what_is_written_is_read_at_once_and_after_a_restart(tmp_path, size):
    wanted = record(size, 1, 2, 3)
    with opened(tmp_path) as store:
        put(store, wanted)
        assert read(store, wanted) == bytes_of(wanted)
    with opened(tmp_path) as store:
        assert store.records() == [wanted]
        assert read(store, wanted) == bytes_of(wanted)
        assert not store.swept
        assert store.discarded is None
        assert store.verify() == {}
    no_orphans(tmp_path)


def test_a_record_of_several_transactions(tmp_path):
    wanted = record(70 << 20, 1)
    with opened(tmp_path, 96 << 20) as store:
        put(store, wanted)
        assert read(store, wanted) == bytes_of(wanted)
        store.remove([wanted.key])
        put(store, wanted)  # the room was given back
    with opened(tmp_path, 96 << 20) as store:
        assert read(store, wanted) == bytes_of(wanted)


def test_a_long_description_comes_back(tmp_path):
    wanted = record(100, *range(50_000), label="é" * 200, namespace="tenant/ü")
    with opened(tmp_path) as store:
        put(store, wanted)
    with opened(tmp_path) as store:
        (stored,) = store.records()
    assert stored.tokens == wanted.tokens
    assert stored.namespace == wanted.namespace
    assert stored.label == "é" * 128  # cut to 256 bytes


def test_the_key_spells_everything_the_kv_depends_on():
    roots = [root_key(model, name) for model in (b"a", b"ab", b"") for name in ("b", "", "ab", "bb")]
    paths = [array("i", tokens) for tokens in ([1], [2], [1, 2], [2, 1])]
    keys = [record_key(root, path) for root in roots for path in paths]
    a, b = paths[:2]
    keys += [record_key(record_key(root, x), y) for root in roots for x, y in ((a, b), (b, a), (a, a))]
    assert len({*roots, *keys}) == len(roots) + len(keys)
    assert {len(key) for key in keys} == {32}


def test_records_come_parents_first(tmp_path):
    top = [record(10, n) for n in range(3)]
    middle = [record(10, n, parent=top[n % 3]) for n in range(9)]
    low = [record(10, n, parent=middle[n]) for n in range(9)]
    with opened(tmp_path) as store:
        put(store, *top, *middle, *low)
    with opened(tmp_path) as store:
        keys = [each.key for each in store.records()]
        assert sorted(keys) == sorted(each.key for each in [*top, *middle, *low])
        assert all(keys.index(each.parent) < keys.index(each.key) for each in [*middle, *low])
        assert len(store) == 21
        assert low[0].key in store


def test_what_hangs_on_a_removed_parent_is_swept_with_all_below(tmp_path):
    top, other = record(9000, 1), record(10, 9)
    child = record(10, 2, parent=top)
    grandchild = record(2_000_000, 3, parent=child)
    with opened(tmp_path) as store:
        put(store, top, child, grandchild, other)
        store.remove([top.key])
        assert store.records() == [other]
    with opened(tmp_path) as store:
        assert store.records() == [other]
        assert store.swept == Counter(parent=2)
        failed("missing", read, store, child)
    no_orphans(tmp_path)


def test_damaged_headers_descriptions_and_other_formats_are_swept(tmp_path, monkeypatch):
    wanted = [record(3000, *range(n, n + 1500)) for n in range(5)]
    pack = Header.pack
    packs = [
        pack,
        lambda header: pack(header)[:-1] + b"?",
        lambda header: pack(dataclasses.replace(header, about_digest=bytes(8))),
        lambda header: pack(dataclasses.replace(header, size=header.size + 1)),
    ]
    with opened(tmp_path) as store:
        for each, its in zip(wanted, packs, strict=False):
            monkeypatch.setattr(Header, "pack", its)
            put(store, each)
        monkeypatch.setattr(Header, "pack", pack)
        monkeypatch.setattr("ragcache.storage.record.FORMAT", 2)
        put(store, wanted[4])
        monkeypatch.undo()
    with opened(tmp_path) as store:
        assert store.records() == wanted[:1]
        assert store.swept == Counter(format=1, checksum=2, truncated=1)
    no_orphans(tmp_path)


def test_a_record_takes_the_place_of_one_with_its_key(tmp_path):
    first = record(4000, 1)
    second = record(3000, 1)
    with opened(tmp_path) as store:
        put(store, first, second)
        assert read(store, second) == bytes_of(second)
        assert store.records() == [second]
    no_orphans(tmp_path)


def test_what_does_not_fit_together_is_refused(tmp_path):
    good = record(100, 1)
    with opened(tmp_path) as store:
        with pytest.raises(ValueError, match="payload"):
            store.write(good, memoryview(bytes(99)))
        with pytest.raises(ValueError, match="key"):
            store.write(record(100, 1, key=bytes(32)), memoryview(bytes(100)))
        with pytest.raises(ValueError, match="together"):
            store.write(good, memoryview(bytes(200))[::2])
        failed("missing", store.write, record(100, 1, parent=good), memoryview(bytes(100)))
        put(store, good)
        with pytest.raises(ValueError, match="99 bytes"):
            store.read_into(good.key, memoryview(bytearray(99)))
        with pytest.raises(ValueError, match="read-only"):
            store.read_into(good.key, memoryview(bytes(100)))
        failed("missing", store.read_into, bytes(32), memoryview(bytearray(1)))
        store.remove([bytes(32), good.key, good.key])
        failed("missing", read, store, good)


def test_what_was_learned_survives(tmp_path):
    first, second = record(10, 1), record(10, 2)
    with opened(tmp_path) as store:
        put(store, first, second)
        store.update({first.key: (7, 8, 9, 0.25), bytes(32): (1, 1, 1, 1.0)})
    with opened(tmp_path) as store:
        stats = {each.key: each.stats for each in store.records()}
    assert stats == {first.key: (7, 8, 9, 0.25), second.key: second.stats}


def test_a_full_store_says_so_and_goes_on(tmp_path):
    with opened(tmp_path) as store:
        written = []
        while store.used + store.footprint(700_000, 1) <= store.usable:
            written.append(record(700_000, len(written)))
            put(store, written[-1])
        assert len(written) == store.usable // store.footprint(700_000, 1)
        assert "remove other records first" in str(failed("full", put, store, record(700_000, 5000)))
        assert store.verify() == {}
        store.remove([written[3].key])
        put(store, record(700_000, 5000))
        assert read(store, record(700_000, 5000)) == bytes_of(record(700_000, 5000))
        assert len(store) == len(written)


SIZES = st.one_of(
    st.integers(1, 9000), st.integers(1, 300_000), st.integers(900_000, 6_000_000), st.just(PAGE - 16), st.just(RUN)
)


@settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(SIZES, st.integers(1, 4000), st.randoms(use_true_random=False)), min_size=20, max_size=60))
def test_what_the_books_allow_is_written(tmp_path_factory, steps):
    """Any sequence of writes and removals within `usable` goes well, and the file keeps to its capacity."""
    folder = tmp_path_factory.mktemp("books")
    live: dict[bytes, Record] = {}
    with opened(folder) as store:
        for step, (size, tokens, rng) in enumerate(steps):
            wanted = record(size, step, *range(tokens))
            footprint = store.footprint(size, tokens + 1)
            while store.used + footprint > store.usable:
                victim = rng.choice(list(live))
                store.remove([victim])
                del live[victim]
            put(store, wanted)
            live[wanted.key] = wanted
        assert store.verify() == {}
    assert (folder / "data.mdb").stat().st_size <= SMALLEST
    surveyed = survey(folder / "data.mdb", TABLES)
    assert surveyed.leaked == 0
    with opened(folder) as store:
        assert {each.key for each in store.records()} == set(live)
        assert surveyed.used * PAGE <= store.used + 16 * PAGE
    no_orphans(folder)


def test_scattered_room_can_be_filled(tmp_path):
    """Single pages are freed all over a full file: nothing long fits anywhere, and yet long records are written."""
    tiny = [record(PAGE - 16, n) for n in range(400)]
    with opened(tmp_path) as store:
        put(store, *tiny)
        filler = []
        while store.used + store.footprint(1_000_000, 1) <= store.usable:
            filler.append(record(1_000_000, 1000 + len(filler)))
            put(store, filler[-1])
        store.remove([each.key for each in tiny[::2]])
        n = 0
        while store.used + store.footprint(600_000, 1) <= store.usable:
            put(store, record(600_000, 5000 + n))
            n += 1
        assert n > 3
        assert store.verify() == {}
    with opened(tmp_path) as store:
        assert len(store) == 200 + len(filler) + n
    no_orphans(tmp_path)


def test_reading_goes_on_while_another_thread_writes_and_removes(tmp_path):
    kept = [record(2_000_000, n) for n in range(2)]
    done = threading.Event()
    rounds, wrong = [0], []

    def reader() -> None:
        while not done.is_set():
            for each in kept:
                if read(store, each) != bytes_of(each):
                    wrong.append(each)
            rounds[0] += 1

    with opened(tmp_path) as store:
        put(store, *kept)
        thread = threading.Thread(target=reader)
        thread.start()
        try:
            for n in range(40):  # past the file's capacity several times over
                put(store, record(3_000_000, 100 + n))
                if n > 1:
                    store.remove([record(3_000_000, 98 + n).key])
        finally:
            done.set()
            thread.join()
        assert not wrong
        assert rounds[0] > 0


def test_a_record_removed_while_it_is_read_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("ragcache.storage.lmdb_chunks.BATCH_CHUNKS", 1)
    wanted = record(4_000_000, 1)
    with opened(tmp_path) as store:
        put(store, wanted)
        reader, times = store._file.reader, [0]

        def removing_at_the_third():  # the first reads the header, the second the first chunk
            times[0] += 1
            if times[0] == 3:
                store.remove([wanted.key])
            return reader()

        monkeypatch.setattr(store._file, "reader", removing_at_the_third)
        assert "removed while it was read" in str(failed("missing", read, store, wanted))


def test_closing_twice_is_harmless_and_all_else_is_refused(tmp_path):
    store = opened(tmp_path)
    put(store, record(10, 1))
    store.close()
    store.close()
    failed("closed", read, store, record(10, 1))
    failed("closed", put, store, record(10, 2))
    failed("closed", store.records)
    failed("closed", store.remove, [record(10, 1).key])
    failed("closed", store.update, {record(10, 1).key: (1, 1, 1, 1.0)})
    failed("closed", store.verify)


def test_progress_is_told(tmp_path):
    heard: list[tuple[int, int]] = []
    with opened(tmp_path) as store:
        put(store, *(record(5000, n) for n in range(5)))
    with DiskStore.open(tmp_path, SMALLEST, FINGERPRINT, progress=lambda *done: heard.append(done)) as store:
        assert heard[-1] == (5, 5)
        assert len(heard) > 10
        heard.clear()
        store.verify(lambda *done: heard.append(done))
    assert heard == [(n, 5) for n in range(1, 6)]
