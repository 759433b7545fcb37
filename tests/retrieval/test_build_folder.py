"""The folder an index is built in: it takes the index's place whole, and what the dead left of theirs is swept."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.build_folder import built_beside, is_being_built, require_replaceable
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


@pytest.fixture(params=["exchange", "two moves"])
def _moves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How an index takes another's place: the second is for systems without the first."""
    if request.param == "two moves":
        monkeypatch.setattr("retrieval.build_folder.exchanged", lambda *_: False)


def interrupting(monkeypatch: pytest.MonkeyPatch, out: Path, number: int) -> None:
    """From now on, the step of that number which moves `out` or something to it is done, and then a signal comes."""
    from retrieval import build_folder

    steps = []

    def moved(move: Callable[..., object], *names: Path) -> object:
        done = move(*names)
        if out in names:
            steps.append(names)
            if len(steps) == number:
                raise KeyboardInterrupt
        return done

    rename, exchange = Path.rename, build_folder.exchanged
    monkeypatch.setattr(Path, "rename", lambda *names: moved(rename, *names))
    monkeypatch.setattr(build_folder, "exchanged", lambda *names: moved(exchange, *names))


@pytest.mark.usefixtures("_moves")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_signal_amid_the_replacement_loses_no_index(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "index", "old")
    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        interrupting(patched, tmp_path / "index", number)
        build(tmp_path / "index", "new")
    assert names(tmp_path) == ["index"]
    assert (tmp_path / "index" / "faiss.idx").read_text() in ("old", "new")


def test_what_cannot_be_put_back_is_kept_for_the_next_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.build_folder.exchanged", lambda *_: False)
    build(tmp_path / "index", "old")
    rename = Path.rename

    def refusing(path: Path, target: Path) -> Path:
        if target == tmp_path / "index":
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refusing)
        with pytest.raises(
            IndexFolderError,
            match=r"before is still at .*old, the new one at .*finished \(.*denied.*; build again to bring it back",
        ):
            build(tmp_path / "index", "new")
    (hidden,) = names(tmp_path)
    assert (tmp_path / hidden / "old" / "faiss.idx").read_text() == "old"
    with contextlib.suppress(KeyboardInterrupt), built_beside(tmp_path / "index", NAMES):
        raise KeyboardInterrupt
    assert names(tmp_path) == [hidden, "index"]
    assert (tmp_path / "index" / "faiss.idx").read_text() == "old"
    assert (tmp_path / hidden / "finished" / "faiss.idx").read_text() == "new"


def test_an_index_is_never_missing_while_another_takes_its_place(tmp_path: Path) -> None:
    out, ended = tmp_path / "index", threading.Event()
    build(out)
    missing = []

    def look() -> None:
        while not ended.is_set():
            try:
                (out / "faiss.idx").stat()
            except FileNotFoundError as error:
                missing.append(error)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(100):
            build(out)
    finally:
        ended.set()
        looking.join()
    assert not missing


@pytest.mark.usefixtures("_moves")
def test_builds_that_end_together_all_succeed(tmp_path: Path) -> None:
    together = threading.Barrier(8)
    failures = []

    def built(text: str) -> None:
        try:
            with built_beside(tmp_path / "index", NAMES) as folder:
                (folder / "faiss.idx").write_text(text)
                together.wait(timeout=30)
        except Exception as error:
            failures.append(error)

    for _ in range(5):
        threads = [threading.Thread(target=built, args=(str(number),)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert names(tmp_path) == ["index"]
    assert (tmp_path / "index" / "faiss.idx").read_text() in "01234567"


def test_whether_an_index_is_being_built_can_be_seen(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "index")
    with built_beside(tmp_path / "index", NAMES):
        assert is_being_built(tmp_path / "index")
        assert is_being_built(tmp_path / "link")
        assert not is_being_built(tmp_path / "inde")
    assert not is_being_built(tmp_path / "index")
    assert not is_being_built(tmp_path / "no" / "folder")


@pytest.mark.parametrize("where", ["tempfile.mkdtemp", "pathlib.Path.mkdir"])
def test_a_disk_that_is_full_when_a_build_begins_is_said_to_be(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(where, full)
        with pytest.raises(IndexFolderError, match=r"No space left.*; make room"):
            build(tmp_path / "index")


@pytest.mark.parametrize(
    ("read_only", "words"),
    [(True, r"cannot be written \(Read-only file system\)"), (False, r"Permission denied.*you may write to")],
)
def test_where_nothing_can_be_written_is_seen_before_the_work(
    tmp_path: Path, read_only: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    flags = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)  # root may write anywhere
    if read_only:
        changed = os.statvfs_result((*flags[:8], flags.f_flag | os.ST_RDONLY, *flags[9:]))
        monkeypatch.setattr(os, "statvfs", lambda _: changed)
    for out in (tmp_path / "index", tmp_path / "a" / "b", tmp_path / "link"):
        with pytest.raises(IndexFolderError, match=words):
            require_replaceable(out, NAMES)
    assert names(tmp_path) == ["link"]


def test_an_index_that_cannot_be_moved_away_is_seen_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that moves to another one has to be writable itself."""
    out = tmp_path / "index"
    build(out, "old")
    (tmp_path / "link").symlink_to(out)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != out)  # root may write anywhere
    for place in (out, tmp_path / "link"):
        for begin in (lambda path: require_replaceable(path, NAMES), build):
            with pytest.raises(
                IndexFolderError, match=r"index.* \((/.*index: )?Permission denied\); .*you may write to"
            ):
                begin(place)
    assert names(tmp_path) == ["index", "link"]


def test_another_users_index_in_a_folder_for_all_is_seen_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in /tmp: what lies there may be moved by its owner alone, whoever may write to it."""
    build(tmp_path / "index", "old")
    owner = tmp_path.stat().st_uid
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 12345)
    with pytest.raises(IndexFolderError, match=r"index: .* \(Operation not permitted\); .*you may write to"):
        require_replaceable(tmp_path / "index", NAMES)
    require_replaceable(tmp_path / "another", NAMES)
    tmp_path.chmod(0o777)
    require_replaceable(tmp_path / "index", NAMES)


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexFolderError, match=r"File name too long.*another folder"):
        build(tmp_path / ("x" * 250))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
def test_what_the_disk_refuses_is_said_with_what_to_do(tmp_path: Path, code: int) -> None:
    with pytest.raises(IndexFolderError) as caught, built_beside(tmp_path / "index", NAMES):
        raise OSError(code, os.strerror(code), "somewhere")
    assert str(caught.value) == (
        f"{tmp_path / 'index'}: the index cannot be written ({os.strerror(code)}); "
        + ("make room, or " if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "")
        + "name a folder on another disk"
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


@pytest.mark.parametrize("here", [".", "part"])
def test_the_folder_that_one_is_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str) -> None:
    """It would be gone for all that runs there, without a word."""
    index = tmp_path / "index"
    (index / "part").mkdir(parents=True)
    (tmp_path / "link").symlink_to(index)
    monkeypatch.chdir(index / here)
    for out in (Path(os.path.relpath(index)), index, tmp_path / "link"):
        with pytest.raises(IndexFolderError, match="is the folder that you are in"):
            require_replaceable(out, {"part"})
    require_replaceable(Path("another"), NAMES)
