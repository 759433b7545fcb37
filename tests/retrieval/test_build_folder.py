"""The folder an index is built in: it takes the index's place whole, and what the dead left of theirs is swept."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.build_folder import built_beside, require_replaceable
from retrieval.errors import IndexFolderError

NAMES = ("faiss.idx", "manifest.json")
ROOT = Path(__file__).parents[2]
# a build that says when it has begun, and then waits to be ended
BUILD = (
    "import sys, time; from pathlib import Path; from retrieval.build_folder import built_beside\n"
    "with built_beside(Path(sys.argv[1]), ('faiss.idx',)) as folder:\n"
    "    (folder / 'faiss.idx').write_text('half'); print('building', flush=True); time.sleep(60)\n"
)


def build(out: Path, text: str = "whole") -> None:
    with built_beside(out, NAMES) as folder:
        (folder / "faiss.idx").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def started(out: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", BUILD, str(out)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"building\n"
    return process


def ended(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    process.communicate(timeout=30)


def test_what_a_killed_build_left_is_swept_by_the_next(tmp_path: Path) -> None:
    ended(started(tmp_path / "index"), signal.SIGKILL)
    assert [name.startswith(".index.building-") for name in names(tmp_path)] == [True]
    build(tmp_path / "index")
    assert names(tmp_path) == ["index"]
    assert (tmp_path / "index" / "faiss.idx").read_text() == "whole"


def test_a_build_that_still_runs_is_left_alone(tmp_path: Path) -> None:
    running = started(tmp_path / "index")
    try:
        (hidden,) = names(tmp_path)
        build(tmp_path / "index")
        assert names(tmp_path) == sorted([hidden, "index"])
        assert (tmp_path / hidden / "new" / "faiss.idx").read_text() == "half"
    finally:
        ended(running, signal.SIGINT)
    assert names(tmp_path) == ["index"]


def test_builds_of_other_indexes_are_left_alone(tmp_path: Path) -> None:
    for name in ("index-2", "[index]"):
        ended(started(tmp_path / name), signal.SIGKILL)
    before = names(tmp_path)
    build(tmp_path / "index")
    assert names(tmp_path) == sorted([*before, "index"])
    build(tmp_path / "[index]")
    assert names(tmp_path) == sorted([*[name for name in before if "index-2" in name], "index", "[index]"])


def test_leftovers_without_a_lock_are_swept(tmp_path: Path) -> None:
    """As builds of earlier versions left them, and a build that was killed before it had its lock."""
    (tmp_path / ".index.building-abcd" / "new").mkdir(parents=True)
    build(tmp_path / "index")
    assert names(tmp_path) == ["index"]


def test_an_index_that_was_moved_aside_by_a_build_that_died_comes_back(tmp_path: Path) -> None:
    build(tmp_path / "index", "old")
    ended(started(tmp_path / "index"), signal.SIGKILL)
    (hidden,) = [name for name in names(tmp_path) if name != "index"]
    (tmp_path / "index").rename(tmp_path / hidden / "old")
    with pytest.raises(KeyboardInterrupt), built_beside(tmp_path / "index", NAMES):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["index"]
    assert (tmp_path / "index" / "faiss.idx").read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
def test_what_the_disk_refuses_is_said_with_what_to_do(tmp_path: Path, code: int) -> None:
    with pytest.raises(IndexFolderError) as caught, built_beside(tmp_path / "index", NAMES):
        raise OSError(code, os.strerror(code), "somewhere")
    assert str(caught.value) == (
        f"{tmp_path / 'index'}: the index cannot be written ({os.strerror(code)}); "
        "make room, or name a folder on another disk"
    )
    assert names(tmp_path) == []


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "index")
    for text in ("first", "second"):  # nothing is there, then an index
        build(tmp_path / "link", text)
        assert names(tmp_path) == ["disk", "link"]
        assert names(tmp_path / "disk") == ["index"]
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "link" / "faiss.idx").read_text() == text


def fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("mine"), "is a file"),
        (fifo, "is a file"),
        (lambda path: (path / "sub").mkdir(parents=True), "holds other files.*'sub'"),
        (lambda path: (path.mkdir(), (path / "manifest.json").touch(), (path / "app.js").touch()), r"'app\.js'"),
    ],
    ids=["file", "fifo", "folder", "another-manifest"],
)
def test_what_is_not_an_index_is_not_replaced(tmp_path: Path, make, words: str) -> None:
    out = tmp_path / "out"
    make(out)
    with pytest.raises(IndexFolderError, match=words):
        require_replaceable(out, NAMES)
    with pytest.raises(IndexFolderError, match=words):
        build(out)
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("there", [[], ["faiss.idx"], ["manifest.json"], ["faiss.idx", "manifest.json"]])
def test_an_index_is_replaced_however_damaged(tmp_path: Path, there: list[str]) -> None:
    (tmp_path / "index").mkdir()
    for name in there:
        (tmp_path / "index" / name).write_bytes(b"")
    build(tmp_path / "index")
    assert names(tmp_path / "index") == ["faiss.idx"]


@pytest.mark.parametrize("under", ["file", "file/deeper"])
def test_a_place_under_a_file_is_refused(tmp_path: Path, under: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(IndexFolderError, match="cannot build there"):
        build(tmp_path / under / "index")
    assert names(tmp_path) == ["file"]
