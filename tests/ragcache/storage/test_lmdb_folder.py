"""The disk tier's folder: one process has it open, it is refused untouched if foreign, and its capacity may change."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ragcache.errors import ConfigError
from ragcache.storage.lmdb_file import MARK, check_folder
from tests.props.disk_records import SMALLEST, bytes_of, opened, put, read, record

PAGE = 4096


def test_a_second_opening_is_refused_in_this_process_and_in_another(tmp_path):
    with opened(tmp_path) as store:
        put(store, record(10, 1))
        with pytest.raises(ConfigError, match="another process"):
            opened(tmp_path)
        child = subprocess.run(
            [sys.executable, "-c", f"from tests.props.disk_records import opened; opened({str(tmp_path)!r})"],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert child.returncode == 1
        assert "has this disk tier open; stop it or name another folder" in child.stderr
        assert read(store, record(10, 1)) == bytes_of(record(10, 1))
    opened(tmp_path).close()


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"someone's")
    (tmp_path / "lost+found").mkdir()
    with pytest.raises(ConfigError, match=r"data\.mdb"):
        opened(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.mdb", "lost+found"]
    assert (tmp_path / "data.mdb").read_bytes() == b"someone's"


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder, reason in ((tmp_path / "file", "it is not a folder"), (tmp_path / "file" / "below", "Not a directory")):
        for refused in (opened, check_folder):
            with pytest.raises(ConfigError) as caught:
                refused(folder)
            wanted = f"{folder}: cannot be the folder of the disk tier ({reason}); name one you may write to"
            assert str(caught.value) == wanted
    with pytest.raises(ConfigError, match="16 MiB or more"):
        opened(tmp_path / "new", SMALLEST - 1)
    assert not (tmp_path / "new").exists()
    (tmp_path / "odd" / "data.mdb").mkdir(parents=True)
    (tmp_path / "odd" / MARK).touch()
    with pytest.raises(ConfigError, match="cannot be opened there"):
        opened(tmp_path / "odd")
    with pytest.raises(ConfigError, match="cannot be opened there"):
        opened(tmp_path / "odd")  # and the mark was let go of


def test_a_folder_is_made_with_those_above_it(tmp_path):
    with opened(tmp_path / "a" / "b") as store:
        put(store, record(10, 1))
        assert store.folder == tmp_path / "a" / "b"


def test_a_folder_may_have_a_name_in_any_encoding(tmp_path):
    for name in ("größe", os.fsdecode(b"gr\xf6\xdfe")):
        with opened(tmp_path / name) as store:
            put(store, record(10, 1))
        with opened(tmp_path / name) as store:
            assert read(store, record(10, 1)) == bytes_of(record(10, 1))


def test_more_capacity_keeps_what_is_there_and_less_does_if_it_fits(tmp_path, caplog):
    wanted = record(4_000_000, 1)
    with opened(tmp_path, 32 << 20) as store:
        put(store, wanted)
    for capacity in (64 << 20, SMALLEST):
        with opened(tmp_path, capacity) as store:
            assert store.records() == [wanted]
            assert SMALLEST * 0.8 < store.usable < capacity
    with opened(tmp_path, 64 << 20) as store:
        put(store, *(record(4_000_000, n) for n in range(2, 8)))
    assert not caplog.records
    with opened(tmp_path) as store:
        assert store.records() == []
        assert "capacity" in (store.discarded or "")
        put(store, wanted)
    assert [each.levelname for each in caplog.records] == ["WARNING"]


def test_the_books_ask_for_little_more_than_the_bytes(tmp_path):
    rng = random.Random(0)
    with opened(tmp_path) as store:
        for _ in range(100):
            size = int(2 ** rng.uniform(0, 29))
            assert size < store.footprint(size, 100) < size * 1.02 + 8 * PAGE
        assert store.usable > 0.8 * SMALLEST
    with opened(tmp_path.with_name("larger"), 1 << 30) as store:
        assert store.usable > 0.98 * (1 << 30)
