"""Compiled kernels: numba functions that run without the GIL, kept on disk between processes where that is possible."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.caching import FunctionCache

from retrieval.cache_folder import NoCacheFolder, cache_folder


class KeptCode(FunctionCache):
    """Machine code of one function on disk. Whatever is wrong with its files, numba compiles, and no call fails.

    They may be another user's, lie on a full disk, or have been cut short when the power failed.
    """

    def load_overload(self, *arguments: Any) -> Any:
        """What was kept; None if there is nothing, or it cannot be read."""
        try:
            return super().load_overload(*arguments)
        except OSError:
            return None
        except Exception:  # a damaged file: what reads pickles raises anything
            with contextlib.suppress(OSError):
                self.flush()  # or nothing could be kept beside it
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Keeps what was compiled, if that is possible."""
        with contextlib.suppress(OSError):
            super().save_overload(*arguments)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called, for the types it is called with.

    The machine code is kept in the user's cache folder (`kernel_folder`), not beside the source. Only a change of the
    kernel's own file makes numba compile it again, so the functions that a kernel calls must be in the same file.
    Where nothing can be kept, or read again, each process compiles for itself.
    """
    folder = kernel_folder()
    if folder is None or not _writable(folder):
        return njit(function, nogil=True)  # with cache=True numba would go on to the source's folder
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        dispatcher = njit(function, nogil=True)
        dispatcher._cache = KeptCode(function)  # as numba's `cache=True` does
        return dispatcher
    except RuntimeError:  # the function has no source file, by which numba names what it keeps
        return njit(function, nogil=True)
    finally:
        config.CACHE_DIR = before  # numba reads it for each function, and those of other packages keep their own


def kernel_folder() -> Path | None:
    """Folder of compiled kernels: `$NUMBA_CACHE_DIR`, else `$RAGCACHE_HOME/numba`, else `~/.cache/ragcache/numba`.

    None for a user without a home folder.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen)
    try:
        return cache_folder() / "numba"
    except NoCacheFolder:
        return None


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
