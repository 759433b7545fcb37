"""A full disk is told from one that fails by a page at the data file's end, which does not stay."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from retrieval.full_disk import FULL, require_room

IO_ERROR = lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.EIO)}")
CONTENT = b"x" * 8192


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.mdb"
    file.write_bytes(CONTENT)
    return file


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_of_a_disk_with_room_stays_what_it_is(data: Path) -> None:
    require_room(IO_ERROR, data)
    assert data.read_bytes() == CONTENT


@pytest.mark.parametrize("room", [0, 100])
def test_a_file_that_cannot_grow_is_named(data: Path, room: int) -> None:
    with files_of_at_most(len(CONTENT) + room), pytest.raises(OSError, match="File too large") as caught:
        require_room(IO_ERROR, data)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(data))
    assert data.read_bytes() == CONTENT


def test_a_file_that_cannot_be_written_at_all_hides_no_error(tmp_path: Path) -> None:
    require_room(IO_ERROR, tmp_path)
    require_room(IO_ERROR, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("code", FULL)
def test_what_lmdb_says_itself_is_said(data: Path, code: int) -> None:
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        require_room(lmdb.Error(f"mdb_put: {os.strerror(code)}"), data)
    assert caught.value.errno == code
