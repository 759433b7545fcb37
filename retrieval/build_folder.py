"""Build folder: a hidden folder beside an index, in which it is built, and which takes the index's place at the end."""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from retrieval.build_lock import alone
from retrieval.errors import IndexFolderError
from retrieval.exchange import exchanged
from retrieval.full_disk import FULL, REFUSED

LOCK = "lock"  # held by the process that builds
NEW, OLD = "new", "old"
REMOVING = "removing"  # is there once the index before is being removed, where it cannot be moved: NEW takes its place
FINISHED = "finished"  # an index that could not take its place: stays until the user moves or removes it


def require_replaceable(out: Path, names: Collection[str]) -> None:
    """IndexFolderError if an index cannot take the place of `out`.

    It holds something besides the parts in `names`, a disk is mounted there, this process runs in it, it may not be
    moved away, or nothing can be written beside it.
    """
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
    if out.exists() and Path.cwd().is_relative_to(out.resolve()):
        raise IndexFolderError(
            f"{out}: is the folder that you are in, which is replaced as a whole; run this in another folder, such as "
            "the one above, or name a folder in it"
        )
    with _refusals(out, "cannot build there"):
        # the innermost folder that is there; what cannot be looked into is not, without an error
        _require_writable(next(path for path in _place(out).parents if os.path.exists(path)))  # noqa: PTH110
        if out.exists():
            _require_movable(_place(out))


@contextlib.contextmanager
def built_beside(out: Path, names: Collection[str]) -> Iterator[Path]:
    """A folder to build in. It becomes `out` if the block ends without an exception, and is removed otherwise.

    `out` is replaced as a whole; if it is a link, what it leads to is. However this ends, `out` is the folder before or
    the new one. Where the system cannot exchange two folders in one step, `out` is missing for a moment; where it
    cannot move `out`, it is removed before the new one takes its place. What processes that are dead left beside it is
    removed first.

    IndexFolderError if `out` holds something else than `names`, its place cannot be written to, or the disk is full or
    fails. A finished folder that cannot take its place stays, and the error says where.
    """
    with alone(_place(out)):  # not while it is missing for a moment
        require_replaceable(out, names)
    out = _place(out)
    with _refusals(out, "cannot build there"):
        out.parent.mkdir(parents=True, exist_ok=True)
        workplace, lock = _claimed(out)
    try:
        try:
            with _refusals(out):
                folder = workplace / NEW
                folder.mkdir()
                yield folder
                _sync(folder)
            _put_in_place(workplace, out, names)
            with _refusals(out, "the new index is in its place, but may be gone if the power fails now"):
                _sync_folder(out.parent)
        finally:
            finished = f", the new one at {workplace / FINISHED}" if (workplace / FINISHED).exists() else ""
            where = f"the index before is still at {workplace / OLD}{finished}"
            with _refusals(out, where, "build again to bring it back"), alone(out):
                _settle(workplace, out)
            _remove(workplace)  # not if that failed: it holds the only index
    finally:
        os.close(lock)


def is_being_built(out: Path) -> bool:
    """Whether an index is being built that is to lie at `out`, or was until the process that built it was killed."""
    try:
        out = _place(out)
        return any(not (workplace / FINISHED).exists() for workplace in out.parent.glob(f"{_hidden(out)}*"))
    except (OSError, IndexFolderError):
        return False


def _place(out: Path) -> Path:
    """Where a folder lies. A link stays where it is, and may lead to another disk; links on the way to it are the
    system's business. IndexFolderError for a link that leads to itself."""
    out = Path(os.path.abspath(out))  # noqa: PTH100
    if not out.is_symlink():
        return out
    try:
        out.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise IndexFolderError(
                f"{out}: is a link that leads to itself; name a folder, or remove the link"
            ) from error
    return out.resolve()


@contextlib.contextmanager
def _refusals(out: Path, doing: str = "", advice: str = "") -> Iterator[None]:
    """Words what the disk refuses for the user, and with `doing` everything else that the system refuses.

    With `advice`, both are worded alike.
    """
    try:
        yield
    except OSError as error:
        if error.errno in REFUSED and not advice:
            name = "make room, or name" if error.errno in FULL else "name"
            raise IndexFolderError(
                f"{out}: the index cannot be written ({error.strerror}); {name} a folder on another disk"
            ) from error
        if not doing:
            raise
        elsewhere = "" if error.filename in (None, str(out)) else f"{error.filename}: "
        reason = f"{elsewhere}{error.strerror}" if error.strerror else error
        which = "a folder you may write to" if isinstance(error, PermissionError) else "another folder"
        raise IndexFolderError(f"{out}: {doing} ({reason}); {advice or f'choose {which}'}") from error


def _require_writable(folder: Path) -> None:
    """OSError, as the system would raise it, if nothing can be made in a folder."""
    if not folder.is_dir():
        code = errno.ENOTDIR
    elif os.access(folder, os.W_OK | os.X_OK):
        return
    else:
        code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
    raise OSError(code, os.strerror(code), str(folder))


def _require_movable(folder: Path) -> None:
    """OSError, as the system would raise it, if a folder may not be moved into another one."""
    _require_writable(folder)  # its entry `..` changes
    parent = folder.parent.stat()
    if parent.st_mode & stat.S_ISVTX and os.geteuid() not in (0, parent.st_uid, folder.stat().st_uid):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(folder))


def _claimed(out: Path) -> tuple[Path, int]:
    """A new folder beside `out` and the descriptor that locks it; sweeps what dead processes left there."""
    with alone(out):  # so that a folder that stands here has its lock, or never will
        for workplace in out.parent.glob(f"{_hidden(out)}*"):
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


def _put_in_place(workplace: Path, out: Path, names: Collection[str]) -> None:
    """The new index takes the place of `out`. If it cannot, it is kept, and IndexFolderError says why and where."""
    try:
        with _refusals(out, "the new index cannot take its place"), alone(out):
            _replace(workplace, out, names)
    except IndexFolderError as error:
        finished = workplace / FINISHED
        with _refusals(out, f"{error}; and the new index at {workplace / NEW} cannot be kept"):
            (workplace / NEW).rename(finished)
        raise IndexFolderError(f"{error}; the new index is at {finished}: move it yourself, or remove it") from error


def _replace(workplace: Path, out: Path, names: Collection[str]) -> None:
    """Puts the new folder in the place of `out`, which is in the workplace then, or was missing, or is gone."""
    require_replaceable(out, names)  # it may have been filled meanwhile
    new = workplace / NEW
    if not out.exists():
        new.rename(out)
    elif not exchanged(new, out):
        try:
            out.rename(workplace / OLD)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # it is of a layer of a container's image, or under a quota of its own
            (workplace / REMOVING).touch()
            _settle(workplace, out)
        else:
            new.rename(out)


def _settle(workplace: Path, out: Path) -> None:
    """Ends a replacement that was cut off: with the new index once the one before is being removed, else with that one,
    if nothing has come in its place."""
    if (workplace / REMOVING).exists() and (workplace / NEW).is_dir():
        if out.exists():
            shutil.rmtree(out)
        (workplace / NEW).rename(out)
    elif (workplace / OLD).is_dir() and not out.exists():
        (workplace / OLD).rename(out)


def _remove(workplace: Path) -> None:
    """Removes what a build has left, but for a finished index that could not take its place."""
    if not (workplace / FINISHED).exists():
        shutil.rmtree(workplace, ignore_errors=True)


def _hidden(out: Path) -> str:
    """The pattern of names that folders to build in have, without its end."""
    return f".{_escaped(out.name)}.building-"


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
        _settle(workplace, out)
        _remove(workplace)
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
