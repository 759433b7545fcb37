"""Index files: size and SHA-256 of each file of an index, as its manifest has them, and the files' check by them."""

import contextlib
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from retrieval.errors import IndexDamaged, IndexFolderError

log = logging.getLogger(__name__)

CHECKED_AT_ONCE = 64 << 20  # bytes; a longer file is checked while it is in use
PIECE = 1 << 20
LOWEST_PRIORITY = 19


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a file holds, in short: its size in bytes and the SHA-256 of its content, 64 hex digits."""

    size: int
    sha256: str


def digest_of(path: Path) -> FileDigest:
    """The digest of a file as it is now. Raises OSError if it cannot be read."""
    with path.open("rb", buffering=0) as file:
        return FileDigest(os.fstat(file.fileno()).st_size, _hashed(file.fileno()).hexdigest())


def _hashed(descriptor: int, go_on: Callable[[int], bool] = lambda _: True) -> "hashlib._Hash":
    """SHA-256 of a file; `go_on` hears the number of bytes of each piece, and says whether to read another."""
    hashed, offset = hashlib.sha256(), 0
    while (piece := os.pread(descriptor, PIECE, offset)) and go_on(len(piece)):
        hashed.update(piece)
        offset += len(piece)
    return hashed


class OpenFile:
    """A file of an index that stays open: the same one when another index takes the folder's place."""

    def __init__(self, path: Path) -> None:
        """Opens it; IndexFolderError if it is missing, is not a regular file, or cannot be read."""
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "is missing"
            raise IndexFolderError(f"{path}: this file of the index {what}; build the index again")
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise IndexFolderError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        self.path = path

    def fileno(self) -> int:
        """Its descriptor."""
        return self._file.fileno()

    @property
    def size(self) -> int:
        """Its size in bytes, as of now."""
        return os.fstat(self.fileno()).st_size

    def close(self) -> None:
        """Close it. Closing twice is harmless."""
        self._file.close()


# A part of a check. It tells the function that it gets how many bytes it has checked since it last did, and stops where
# that returns False. Raises IndexDamaged.
Job = Callable[[Callable[[int], bool]], None]


class IndexCheck:
    """Holds the files of an open index against the digests in its manifest: sizes and small files at once, the content
    of large ones on a thread of its own, of the lowest priority.

    Owns the files and closes them with itself. Any thread may call its methods.
    """

    def __init__(
        self, files: Mapping[str, OpenFile], digests: Mapping[str, FileDigest], at_once: int = CHECKED_AT_ONCE
    ) -> None:
        """Raises IndexDamaged for what can be seen at once; the files are closed then."""
        self._files = dict(files)
        self._at_once = at_once
        self._jobs: list[Job] = []
        self._names: list[str] = []
        self._bytes_left = 0  # about, as a database is longer than what is read of it
        self._checked = False
        self._damage: IndexDamaged | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            for name, digest in digests.items():
                _require_size(self._files[name], digest)
            for name, digest in digests.items():
                self.add(self._files[name], partial(_require_content, self._files[name], digest))
        except BaseException:
            self.close()
            raise

    def add(self, file: OpenFile, job: Job) -> None:
        """Does a job that reads a file: at once if the file is small, and raises what it raises; else after `start`."""
        if file.size <= self._at_once:
            job(lambda _: True)
        else:
            self._jobs.append(job)
            self._names.append(str(file.path))
            self._bytes_left += file.size

    def file(self, name: str) -> OpenFile:
        """One of the files, by its name in the manifest."""
        return self._files[name]

    def start(self) -> None:
        """Starts to check what is left, if anything is."""
        if self._jobs:
            log.info("checking %s in the background", self.pending)
            self._thread = threading.Thread(target=self._run, name="index-check", daemon=True)
            self._thread.start()

    @property
    def damage(self) -> IndexDamaged | None:
        """What is wrong with the index, once that is known."""
        return self._damage

    @property
    def pending(self) -> str:
        """What is still to be checked, in words; empty if nothing is."""
        if not self._jobs or self._checked:
            return ""
        return f"{', '.join(self._names)} ({max(0, self._bytes_left) / 1e9:.1f} GB left)"

    def require_sound(self) -> None:
        """Raises IndexDamaged if damage is known."""
        if self._damage is not None:
            raise IndexDamaged(str(self._damage))  # each with a traceback of its own

    def report(self, damage: IndexDamaged) -> None:
        """Takes note of damage that was met when the index was used: nothing is served from it any more."""
        if self._damage is None:
            self._damage = damage
            log.critical("%s; no question is answered from a damaged index", damage)

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until everything is checked, at most this long; whether that is so. See `require_sound`."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.pending

    def close(self) -> None:
        """Ends the check and closes the files. Closing twice is harmless."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        for file in self._files.values():
            file.close()

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        try:
            for job in self._jobs:
                job(self._go_on)
                if self._closing.is_set():
                    return
            log.info("the files of the index are what was built")
        except IndexDamaged as damage:
            self.report(damage)
        except Exception as error:  # what could not be checked is not known to be sound
            self.report(IndexDamaged(f"{self._names[0]}: the index cannot be checked ({error}); build the index again"))
        self._checked = True

    def _go_on(self, count: int) -> bool:
        self._bytes_left -= count
        return not self._closing.is_set()


def _require_size(file: OpenFile, digest: FileDigest) -> None:
    if file.size != digest.size:
        what = "cut short" if file.size < digest.size else "not the one that was built"
        raise IndexDamaged(
            f"{file.path}: this file of the index is damaged or {what} ({file.size} bytes of {digest.size}); "
            "build the index again"
        )


def _require_content(file: OpenFile, digest: FileDigest, go_on: Callable[[int], bool] = lambda _: True) -> None:
    stopped = False

    def going_on(count: int) -> bool:
        nonlocal stopped
        stopped = not go_on(count)
        return not stopped

    try:
        sha256 = _hashed(file.fileno(), going_on).hexdigest()
    except OSError as error:
        raise IndexDamaged(f"{file.path}: cannot be read ({error.strerror}); build the index again") from error
    if sha256 != digest.sha256 and not stopped:
        raise IndexDamaged(
            f"{file.path}: this file of the index is damaged or of another build (its content has changed); "
            "build the index again"
        )
