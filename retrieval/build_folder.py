"""Build folder: a hidden folder beside an index, in which it is built, and which takes the index's place at the end."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from retrieval.errors import IndexFolderError

LOCK = "lock"  # held by the process that builds
NEW, OLD = "new", "old"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # what is wrong with the disk


def require_replaceable(out: Path, names: Collection[str]) -> None:
    """IndexFolderError if an index cannot take the place of `out`: it holds something besides the parts in `names`."""
    if out.exists() and not out.is_dir():
        raise IndexFolderError(f"{out}: is a file; name a folder for the index")
    if out.is_dir():
        others = sorted(path.name for path in out.iterdir() if path.name not in names)
        if others:
            raise IndexFolderError(
                f"{out}: the folder holds other files and is not an index (such as {others[0]!r}); "
                "name a new or empty folder"
            )
    if _is_mount_point(out):
        raise IndexFolderError(
            f"{out}: is where a disk is mounted, which cannot be replaced as a whole; name a folder in it, "
            f"such as {out / 'index'}"
        )


@contextlib.contextmanager
def built_beside(out: Path, names: Collection[str]) -> Iterator[Path]:
    """A folder to build in. It becomes `out` if the block ends without an exception, and is removed otherwise.

    `out` is replaced whole and at once; if it is a link, what it leads to is. What processes that are dead left beside
    it is removed first. IndexFolderError if `out` holds something else than `names`, its place cannot be written to, or
    the disk is full or fails.
    """
    # a link stays where it is, and may lead to another disk; links on the way to it are the system's business
    out = Path(os.path.abspath(out))  # noqa: PTH100
    out = out.resolve() if out.is_symlink() else out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        workplace, lock = _claimed(out)
    except OSError as error:
        raise IndexFolderError(f"{out}: cannot build there ({error}); choose a folder you may write to") from error
    try:
        folder = workplace / NEW
        folder.mkdir()
        yield folder
        require_replaceable(out, names)  # it may have been filled meanwhile
        _sync(folder)
        replaced = workplace / OLD
        if out.exists():
            out.rename(replaced)
        try:
            folder.rename(out)
        except BaseException:
            if replaced.exists():
                replaced.rename(out)
            raise
        _sync_folder(out.parent)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise IndexFolderError(
            f"{out}: the index cannot be written ({error.strerror}); make room, or name a folder on another disk"
        ) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
        os.close(lock)


def _claimed(out: Path) -> tuple[Path, int]:
    """A new folder beside `out` and the descriptor that locks it; sweeps what dead processes left there."""
    beside = os.open(out.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # one at a time, so that a folder that stands here has its lock, or never will
        with contextlib.suppress(OSError):
            fcntl.flock(beside, fcntl.LOCK_EX)
        for workplace in out.parent.glob(f".{_escaped(out.name)}.building-*"):
            _sweep(workplace, out)
        workplace = Path(tempfile.mkdtemp(prefix=f".{out.name}.building-", dir=out.parent))
        try:
            lock = os.open(workplace / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except BaseException:
            shutil.rmtree(workplace, ignore_errors=True)
            raise
        with contextlib.suppress(OSError):  # a disk without locks: nobody can take it then, and nobody sweeps
            fcntl.flock(lock, fcntl.LOCK_EX)
        return workplace, lock
    finally:
        os.close(beside)


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _sweep(workplace: Path, out: Path) -> None:
    """Removes the folder of a build that was killed; one that still runs holds its lock."""
    try:
        lock = os.open(workplace / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        lock = None
    except OSError:  # another user's
        return
    try:
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not out.exists() and (workplace / OLD).is_dir():  # killed between its two moves
            (workplace / OLD).rename(out)
        shutil.rmtree(workplace, ignore_errors=True)
    except OSError:
        return
    finally:
        if lock is not None:
            os.close(lock)


def _sync(folder: Path) -> None:
    """Waits until everything in a folder is on the disk: the index it replaces is gone then."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            _sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without it
            raise
    finally:
        os.close(descriptor)


def _is_mount_point(path: Path) -> bool:
    if not path.exists():
        return False
    path = path.resolve()
    if path.is_mount():
        return True
    try:  # a folder of the same disk that is mounted here as well
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    # blanks in paths stand there as \\040
    return any(line.split(" ")[4].replace(r"\040", " ") == str(path) for line in mounts.splitlines())
