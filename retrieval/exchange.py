"""Exchange: two files or folders of a disk trade their names in one step, so that neither name is ever missing."""

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's fcntl.h and fs.h
# by the kernel, or by the file system: for all folders, or for those of another layer, as overlayfs has them
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)


def exchanged(first: Path, second: Path) -> bool:
    """Whether the two, which must exist on one disk, have traded their names; False if the system cannot do that.

    Raises OSError, with both names, for what it refuses.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # not Linux, or a C library before 2018
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))
