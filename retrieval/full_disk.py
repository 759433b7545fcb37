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

    A disk that runs full amid a write is an I/O error to LMDB, so the file is made a page longer, to see whether it
    can grow.
    """
    if os.strerror(errno.EIO) in str(error) and data.exists():
        try:
            with data.open("r+b") as file:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, _PAGE)
        except OSError as refusal:
            raise OSError(refusal.errno, os.strerror(refusal.errno or errno.EIO), str(data)) from error
    for code, text in zip(FULL, _FULL_TEXTS, strict=True):
        if text in str(error):
            raise OSError(code, text, str(data)) from error
