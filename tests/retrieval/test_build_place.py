"""A place that is hard to take: an index that cannot be moved away is removed, and no finished index is lost."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.build_folder import built_beside, is_being_built, require_replaceable
from retrieval.errors import IndexFolderError
from retrieval.retriever import Retriever
from tests.retrieval.test_build_folder import NAMES, ROOT, build, ended, names, started


@pytest.mark.parametrize("error", [errno.EACCES, errno.EBUSY, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("before", [True, False])
def test_a_finished_index_that_cannot_take_its_place_is_kept(
    tmp_path: Path, before: bool, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"
    if before:
        build(out, "old")

    def refused(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    rename = Path.rename
    with monkeypatch.context() as patched:
        patched.setattr("retrieval.build_folder.exchanged", refused)
        patched.setattr(Path, "rename", lambda path, to: refused() if to == out else rename(path, to))
        with pytest.raises(IndexFolderError, match=os.strerror(error)) as caught:
            build(out, "new")
    (hidden,) = (name for name in names(tmp_path) if name != "index")
    finished = tmp_path / hidden / "finished"
    assert str(caught.value).endswith(f"; the new index is at {finished}: move it yourself, or remove it")
    assert out.exists() is before
    assert not is_being_built(out)
    build(out, "again")  # removes it as little as it says
    assert names(tmp_path) == [hidden, "index"]
    assert (finished / "faiss.idx").read_text() == "new"
    assert (out / "faiss.idx").read_text() == "again"


def test_a_finished_index_whose_place_has_been_taken_is_kept(tmp_path: Path) -> None:
    def build_meanwhile() -> None:
        with built_beside(tmp_path / "index", NAMES):
            (tmp_path / "index").mkdir()
            (tmp_path / "index" / "mine").touch()

    with pytest.raises(IndexFolderError, match=r"other files.*'mine'.*; the new index is at .*finished"):
        build_meanwhile()
    assert names(tmp_path / "index") == ["mine"]
    assert len(names(tmp_path)) == 2


def immovable(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    """From now on `out` cannot be moved, as a folder of an image's layer cannot; but what is in it can be removed."""
    rename = Path.rename

    def refusing(path: Path, target: Path) -> Path:
        if path == out:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(path, target)

    monkeypatch.setattr("retrieval.build_folder.exchanged", lambda *_: False)
    monkeypatch.setattr(Path, "rename", refusing)


def test_an_index_that_cannot_be_moved_is_removed_for_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "index", "old")
    immovable(monkeypatch, tmp_path / "index")
    build(tmp_path / "index", "new")
    assert names(tmp_path) == ["index"]
    assert (tmp_path / "index" / "faiss.idx").read_text() == "new"


@pytest.mark.parametrize("removed", [True, False])
def test_a_removal_that_is_cut_off_ends_with_the_new_index(
    tmp_path: Path, removed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, remove, cut = tmp_path / "index", shutil.rmtree, []
    build(out, "old")

    def cut_off(path: Path, **options: bool) -> None:
        if path == out and not cut:
            cut.append(path)
            if removed:
                remove(path)
            raise KeyboardInterrupt
        remove(path, **options)

    immovable(monkeypatch, out)
    monkeypatch.setattr(shutil, "rmtree", cut_off)
    with pytest.raises(KeyboardInterrupt):
        build(out, "new")
    assert names(tmp_path) == ["index"]
    assert (out / "faiss.idx").read_text() == "new"


def test_a_build_that_was_killed_amid_the_removal_is_ended_by_the_next(tmp_path: Path) -> None:
    ended(started(tmp_path / "index"), signal.SIGKILL)
    (hidden,) = names(tmp_path)
    (tmp_path / hidden / "removing").touch()
    (tmp_path / "index").mkdir()  # without what it held
    with pytest.raises(KeyboardInterrupt), built_beside(tmp_path / "index", NAMES):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["index"]
    assert (tmp_path / "index" / "faiss.idx").read_text() == "half"


def test_an_index_in_a_layer_of_an_image_is_replaced(tmp_path: Path) -> None:
    """A container sees its image through overlayfs, which moves no folder of a layer below."""
    own_mounts = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    for name in ("disk", "seen"):
        (tmp_path / name).mkdir()
    layers = (
        "mount -t tmpfs tmpfs disk && mkdir -p disk/image/index disk/upper disk/work"
        " && echo old > disk/image/index/faiss.idx"
        " && mount -t overlay overlay -o lowerdir=disk/image,upperdir=disk/upper,workdir=disk/work seen"
    )
    replace = (
        "from pathlib import Path; from retrieval.build_folder import built_beside\n"
        "with built_beside(Path('seen/index'), ('faiss.idx',)) as folder: (folder / 'faiss.idx').write_text('new')\n"
        "print(*sorted(path.name for path in Path('seen').iterdir()), Path('seen/index/faiss.idx').read_text())"
    )
    command = [*own_mounts, "sh", "-c", f'{layers} || exit 77; exec "$0" -c "$1"', sys.executable, replace]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("needs to mount disks")
    assert (done.returncode, done.stdout) == (0, "index new\n"), done.stderr


def test_a_link_that_leads_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "there").symlink_to("back")
    (tmp_path / "back").symlink_to("there")
    for name in ("self", "there"):
        with pytest.raises(IndexFolderError, match=f"{name}: is a link that leads to itself; name a folder, or remove"):
            require_replaceable(tmp_path / name, NAMES)
        with pytest.raises(IndexFolderError, match="is a link that leads to itself"):
            build(tmp_path / name, "new")
        with pytest.raises(IndexFolderError, match="cannot build there"):
            build(tmp_path / name / "index", "new")
        assert not is_being_built(tmp_path / name)
        assert not is_being_built(tmp_path / name / "index")
        with pytest.raises(IndexFolderError, match="there is no index folder; build one"):
            Retriever.open(tmp_path / name)
    assert names(tmp_path) == ["back", "self", "there"]
