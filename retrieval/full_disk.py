"""Full disk: which errors say that a disk has no room or fails, and what LMDB makes of them."""

import errno
import os
from pathlib import Path

import lmdb

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (*FULL, errno.EIO, errno.EROFS)  # the disk is at fault, not the name or the permissions
_FULL_TEXTS = tuple(os.strerror(code) for code in FULL)
_PAGE = 4096


def says_full(error: Exception) -> bool:
    """Whether an error of LMDB or of the system says that a file or a disk has no room."""
    return isinstance(error, lmdb.MapFullError | lmdb.DiskError) or any(text in str(error) for text in _FULL_TEXTS)


def require_room(error: lmdb.Error, data: Path) -> None:
    """Raises OSError, with the name of the data file, if an error of LMDB comes of a full disk; else returns.

    A disk that runs full amid a write is an I/O error to LMDB, so a page is written behind the file's end, to see
    whether it can grow, and cut off again. No other may write to the file meanwhile.
    """
    if os.strerror(errno.EIO) in str(error):
        try:
            _try_to_grow(data)
        except OSError as refusal:
            if refusal.errno in FULL:
                raise OSError(refusal.errno, os.strerror(refusal.errno), str(data)) from error
    for code, text in zip(FULL, _FULL_TEXTS, strict=True):
        if text in str(error):
            raise OSError(code, text, str(data)) from error


def _try_to_grow(data: Path) -> None:
    with data.open("r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while missing := size + _PAGE - file.tell():  # the last write before the limit is a short one
                file.write(bytes(missing))
            os.fsync(file.fileno())  # some file systems see only now that there is no room
        finally:
            file.truncate(size)
