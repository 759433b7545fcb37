"""Build lock: a file beside an index, locked while a build claims its folder there, and while one takes its place."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

ATTEMPTS = 10_000  # to lock the file before it is removed by the process that had it; more than others ever come first


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """A context that one process at a time enters for the index `out`, as far as its disk has locks.

    The lock is a file of its own, which is removed afterwards, and not the folder that it lies in: the caller may have
    locked that, as in `flock DIR ragcache index --out DIR/index`. Where the file cannot be had, nothing is locked: it
    is another user's, or the disk is full.
    """
    path = out.parent / f".{out.name}.lock"
    descriptor = _locked(path)
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)  # after that, so that whoever gets the lock now sees that its file is gone


def _locked(path: Path) -> int | None:
    for _ in range(ATTEMPTS):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return None
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None


def _is(descriptor: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
