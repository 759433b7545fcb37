"""What kill -9, full disks and flipped bits leave of the disk tier is right or gone, and opening it ends no process."""

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import lmdb
import pytest

from ragcache.errors import RecordError
from ragcache.storage import lmdb_store
from ragcache.storage.lmdb_file import CHUNKS, DATA, MARK, TABLES
from ragcache.storage.lmdb_survey import survey
from retrieval.lmdb_pages import DamagedPages
from tests.props.disk_child import SEEDED
from tests.props.disk_records import bytes_of, failed, no_orphans, opened, put, read, record

ROOT = Path(__file__).parents[3]
PAGE = 4096


def child(what: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.props.disk_child", what, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(what: str, folder: Path) -> str:
    """What a child printed; it must have ended well."""
    process = child(what, folder)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, f"ended with {process.returncode}\n{err}"
    return out


@pytest.fixture
def seeded(tmp_path: Path) -> Path:
    """A store with records of many sizes, and with free pages from others that were removed."""
    with opened(tmp_path) as store:
        put(store, *SEEDED, *(record(30_000, 50, n) for n in range(20)))
        store.remove([record(30_000, 50, n).key for n in range(20)])
    return tmp_path


def flip(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (value,) = file.read(1)
        file.seek(offset)
        file.write(bytes([value ^ 1 << bit]))


@pytest.mark.full(proof="test_a_write_that_fails_midway_leaves_nothing")
def test_kill_9_at_any_moment_leaves_whole_records_only(tmp_path):
    rng = random.Random(5)
    swept: Counter[str] = Counter()
    rounds = 0
    while rounds < 15 or (not swept and rounds < 100):  # a busy machine may take long to begin with a write
        rounds += 1
        process = child("write", tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.25))
        process.kill()
        process.communicate()
        assert survey(tmp_path / DATA, TABLES).leaked == 0
        with opened(tmp_path, 32 << 20) as store:
            assert store.discarded is None
            assert all(read(store, each) == bytes_of(each) for each in store.records())
            numbers = {place.number for place in store._visible.values()}
            with store._file.reader() as txn:
                assert store._file.chunk_sizes(txn).keys() == numbers
            swept += store.swept
    assert swept.keys() == {"unfinished"}  # a kill went through a write, and through nothing worse
    no_orphans(tmp_path)


@pytest.mark.parametrize("kind", [lmdb.DiskError, lmdb.MapFullError, OSError, KeyboardInterrupt])
def test_a_write_that_fails_midway_leaves_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("ragcache.storage.lmdb_chunks.BATCH_CHUNKS", 1)
    with opened(tmp_path) as store:
        commit, calls = store._file.commit, [0]

        def failing(write):
            calls[0] += 1
            if calls[0] == 4:
                raise kind("no more")
            return commit(write)

        put(store, record(10, 1))
        calls[0] = 0
        with monkeypatch.context() as patch:
            patch.setattr(store._file, "commit", failing)
            with pytest.raises(KeyboardInterrupt if kind is KeyboardInterrupt else RecordError) as caught:
                put(store, record(7_000_000, 2))
        if kind is not KeyboardInterrupt:
            assert getattr(caught.value, "reason", "") == ("io" if kind is OSError else "full")
        assert store.records() == [record(10, 1)]
        assert store.used == store.footprint(10, 1)
        put(store, record(7_000_000, 2))
        assert read(store, record(7_000_000, 2)) == bytes_of(record(7_000_000, 2))
    no_orphans(tmp_path)


def test_leftovers_that_cannot_be_removed_stay_booked_until_they_are(tmp_path, monkeypatch, caplog):
    with opened(tmp_path) as store:
        put(store, record(3_000_000, 1))

        def failing(_: int) -> None:
            raise lmdb.DiskError("no more")

        with monkeypatch.context() as patch:
            patch.setattr(store._file, "delete_chunks", failing)
            store.remove([record(3_000_000, 1).key])
        assert "still takes space" in caplog.text
        assert store.records() == []
        assert store.used == store.footprint(3_000_000, 1)
        store.remove([])
        assert store.used == 0
    no_orphans(tmp_path)


def test_a_disk_that_runs_full_while_writing(tmp_path):
    assert "remove records or give the disk more space" in finished("limit", tmp_path)


def test_a_flipped_bit_of_the_kv_is_found(tmp_path):
    wanted, other = record(3_000_000, 1), record(3_000_000, 2)
    with opened(tmp_path) as store:
        put(store, wanted, other)
    place = (tmp_path / DATA).read_bytes().find(bytes_of(wanted)[2_500_000:2_500_100])
    assert place > 0
    flip(tmp_path / DATA, place, 3)
    with opened(tmp_path) as store:
        assert not store.swept
        assert "damaged" in str(failed("checksum", read, store, wanted))
        assert read(store, other) == bytes_of(other)
        assert {key: error.reason for key, error in store.verify().items()} == {wanted.key: "checksum"}
        store.remove([wanted.key])
        assert store.verify() == {}


def test_missing_chunks_are_found_by_reading_and_by_opening(tmp_path):
    wanted = record(3_000_000, 1)
    with opened(tmp_path) as store:
        put(store, wanted)
        with store._file.require_open().begin(write=True, db=store._file.tables[CHUNKS]) as txn, txn.cursor() as cursor:
            assert cursor.last()
            assert cursor.delete()
        failed("truncated", read, store, wanted)
        assert [error.reason for error in store.verify().values()] == ["truncated"]
    with opened(tmp_path) as store:
        assert store.swept == Counter(truncated=1)
    no_orphans(tmp_path)


def test_a_damaged_header_is_found_after_opening_too(tmp_path):
    wanted = record(3000, 1)
    with opened(tmp_path) as store:
        put(store, wanted)
        with store._file.require_open().begin(write=True, db=store._file.tables[b"headers"]) as txn:
            value = bytearray(txn.get(wanted.key))
            value[20] ^= 1
            txn.put(wanted.key, bytes(value))
        assert store.records() == []
        failed("checksum", read, store, wanted)
        store.remove([wanted.key])
        assert store.used == 0
    no_orphans(tmp_path)


@pytest.mark.full(proof="test_every_bit_of_the_meta_pages_and_of_the_tables_roots_is_looked_at_or_harmless")
def test_flipped_bits_anywhere_end_no_process_and_serve_nothing_wrong(seeded):
    rng = random.Random(8)
    sound = (seeded / DATA).read_bytes()
    structure = [
        start
        for start in range(2 * PAGE, len(sound), PAGE)
        if int.from_bytes(sound[start : start + 8], "little") == start // PAGE
    ]
    outcomes: Counter[str] = Counter()
    for n in range(40):
        (seeded / DATA).write_bytes(sound)
        if n % 3 == 0:
            offset = rng.choice([0, PAGE]) + rng.randrange(16 + 136)  # a meta page
        elif n % 3 == 1:
            offset = rng.choice(structure) + rng.choice([rng.randrange(40), rng.randrange(PAGE)])
        else:
            offset = rng.randrange(len(sound))
        flip(seeded / DATA, offset, rng.randrange(8))
        outcomes[finished("damage", seeded).strip()] += 1
    assert outcomes["discarded"] > 10
    assert outcomes["kept"] > 5


def test_every_bit_of_the_meta_pages_and_of_the_tables_roots_is_looked_at_or_harmless(seeded):
    """No flip there makes the survey find a sound file with other pages in use, or fail otherwise than it promises."""
    sound = (seeded / DATA).read_bytes()[: 1 << 30]
    wanted = survey(seeded / DATA, TABLES)
    refused = 0
    for offset in (*range(152), *range(PAGE, PAGE + 152)):
        flip(seeded / DATA, offset, offset % 8)
        try:
            surveyed = survey(seeded / DATA, TABLES)
            assert (surveyed.page_size, surveyed.used) == (PAGE, wanted.used), offset
        except DamagedPages:
            refused += 1
        flip(seeded / DATA, offset, offset % 8)
    assert refused > 130
    assert (seeded / DATA).read_bytes() == sound


@pytest.mark.parametrize("left", [0, 1, 100, PAGE, 2 * PAGE - 1, 2 * PAGE, 5 * PAGE, 0.5, 0.9])
def test_a_truncated_file_is_made_anew(seeded, caplog, left):
    size = (seeded / DATA).stat().st_size
    with (seeded / DATA).open("r+b") as file:
        file.truncate(left if isinstance(left, int) else int(size * left))
    with opened(seeded) as store:
        assert store.records() == []
        assert store.discarded
        put(store, SEEDED[4])
    (warning,) = caplog.records
    assert "discarded" in warning.getMessage()
    assert str(seeded) in warning.getMessage()
    with opened(seeded) as store:
        assert store.records() == [SEEDED[4]]


def test_other_files_in_its_place_are_made_anew(tmp_path, caplog):
    (tmp_path / MARK).touch()
    (tmp_path / DATA).write_bytes(random.Random(0).randbytes(100_000))
    with opened(tmp_path) as store:
        assert "not a meta page" in (store.discarded or "")
    (tmp_path / DATA).unlink()
    with lmdb.open(str(tmp_path), max_dbs=1) as env:
        env.open_db(b"documents")
    with opened(tmp_path) as store:
        assert "not a table of this store" in (store.discarded or "")
    flip(tmp_path / DATA, 16 + 4, 1)
    with opened(tmp_path) as store:
        assert "another LMDB" in (store.discarded or "")
    assert len(caplog.records) == 3


def test_what_lmdb_itself_refuses_is_made_anew(seeded, monkeypatch, caplog):
    def refusing(*_):
        raise lmdb.CorruptedError("located page was wrong type")

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_store, "scan", refusing)
        store = opened(seeded)
    with store:
        assert store.records() == []
        assert "wrong type" in (store.discarded or "")
        put(store, *SEEDED)
        assert store.verify() == {}
    assert len(caplog.records) == 1
