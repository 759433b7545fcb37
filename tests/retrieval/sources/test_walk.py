"""The walk through folders: what it finds, in which order, under which names, and what it names as unreadable."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import CorpusError
from retrieval.sources.unreadable import Unreadable
from retrieval.sources.walk import walk


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.name)
    return path


def found(*paths: Path) -> tuple[list[str], list[str]]:
    """Names of the files, and what was skipped."""
    skipped: list[Unreadable] = []
    files = walk(paths, skipped.append)
    assert all(file.size == file.path.stat().st_size for file in files)
    return [file.name for file in files], [f"{Path(error.where).name}: {error.reason}" for error in skipped]


def test_files_are_named_by_their_path_below_the_folder_and_sorted(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.txt", "a.txt", "B.txt"):
        write(tmp_path / name)
    assert found(tmp_path) == (["B.txt", "a/b/c.txt", "a/z.txt", "a.txt", "b.txt"], [])


def test_what_is_hidden_is_left_out_unless_it_is_named(tmp_path: Path) -> None:
    write(tmp_path / "seen.txt")
    write(tmp_path / ".git" / "config")
    write(tmp_path / ".hidden.txt")
    assert found(tmp_path) == (["seen.txt"], [])
    assert found(tmp_path / ".hidden.txt") == ([".hidden.txt"], [])


def test_lock_files_of_word_are_left_out(tmp_path: Path) -> None:
    for name in ("report.docx", "~$report.docx", "sub/~$port.docx", "~notes.txt", "$a.txt", "a~$b.txt"):
        write(tmp_path / name)
    assert found(tmp_path) == (["$a.txt", "a~$b.txt", "report.docx", "~notes.txt"], [])
    assert found(tmp_path / "~$report.docx") == (["~$report.docx"], [])


def test_several_paths_are_named_from_the_folder_that_holds_them_all(tmp_path: Path) -> None:
    write(tmp_path / "one" / "readme.md")
    write(tmp_path / "two" / "readme.md")
    assert found(tmp_path / "two", tmp_path / "one") == (["one/readme.md", "two/readme.md"], [])
    assert found(tmp_path / "one" / "readme.md") == (["readme.md"], [])
    assert found(tmp_path, tmp_path / "one", tmp_path) == (["one/readme.md", "two/readme.md"], [])


def test_an_index_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.json")
    for name in ("manifest.json", "faiss.idx", "documents.lmdb/data.mdb"):
        write(tmp_path / "my-index" / name)
    assert found(tmp_path) == (["a.json"], [])


def test_links_are_followed_but_nothing_is_read_twice(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "z" / "a.txt")
    write(tmp_path / "elsewhere" / "b.txt")
    (tmp_path / "docs" / "a-link").symlink_to("z")
    (tmp_path / "docs" / "file-link.txt").symlink_to("z/a.txt")
    (tmp_path / "docs" / "outside").symlink_to("../elsewhere")
    assert found(tmp_path / "docs") == (["outside/b.txt", "z/a.txt"], [])
    (tmp_path / "named").symlink_to("docs")
    assert found(tmp_path / "named") == (["outside/b.txt", "z/a.txt"], [])


def test_dangling_links_and_devices_are_named_but_not_links_to_what_is_read(tmp_path: Path) -> None:
    write(tmp_path / "sub" / "a.txt")
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "sub" / "here").symlink_to(".")
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "itself").symlink_to("itself")
    os.mkfifo(tmp_path / "pipe.txt")
    names, skipped = found(tmp_path)
    assert names == ["sub/a.txt"]
    assert sorted(skipped) == [
        "itself: cannot be read (Too many levels of symbolic links)",
        "nowhere: cannot be read (No such file or directory)",
        "pipe.txt: is not a regular file",
    ]


def test_what_cannot_be_looked_at_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that may be listed but not entered, to one who is not root; a path that is too long."""
    write(tmp_path / "a.txt")
    deep = tmp_path
    for _ in range(20):
        deep /= "d" * 250
        monkeypatch.chdir(deep.parent if deep.parent == tmp_path else "d" * 250)
        os.mkdir("d" * 250)  # noqa: PTH102  # relative: the whole path is longer than the system takes
    names, (skipped,) = found(tmp_path)
    assert names == ["a.txt"]
    assert skipped.endswith(": cannot be read (File name too long)")

    monkeypatch.chdir(tmp_path)
    locked, stat = write(tmp_path / "locked" / "b.txt"), Path.stat

    def refused(path: Path, **options: Any) -> os.stat_result:
        if path == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    monkeypatch.setattr(Path, "lstat", lambda path: refused(path, follow_symlinks=False))
    names, skipped_too = found(tmp_path / "locked")
    assert (names, skipped_too) == ([], ["b.txt: cannot be read (Permission denied)"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    locked = write(tmp_path / "locked" / "b.txt").parent
    locked.chmod(0)
    try:
        assert found(tmp_path) == (["a.txt"], ["locked: cannot be read (Permission denied)"])
    finally:
        locked.chmod(0o700)


def test_names_that_are_not_utf_8_are_named_readably(tmp_path: Path) -> None:
    write(tmp_path / "good.txt")
    (tmp_path / os.fsdecode(b"caf\xe9\x1b.txt")).write_text("x")
    skipped: list[Unreadable] = []
    assert [file.name for file in walk([tmp_path], skipped.append)] == ["good.txt"]
    assert str(skipped[0]).endswith("caf\\udce9\\x1b.txt: its name is not UTF-8, so it cannot be an id; rename it")


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none: does not exist"):
        walk([tmp_path, tmp_path / "none"], lambda _: None)
