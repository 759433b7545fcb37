"""Compiled kernels: numba functions that run without the GIL, kept on disk between processes where that is possible."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.caching import FunctionCache, UserProvidedCacheLocator

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
        with contextlib.suppress(Exception):  # it reads a file first, which may be damaged still
            super().save_overload(*arguments)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called, for the types it is called with.

    The machine code is kept in the user's cache folder (`kernel_folder`), not beside the source. Only a change of the
    kernel's own file makes numba compile it again, so the functions that a kernel calls must be in the same file.
    Where nothing can be kept, or read again, each process compiles for itself.
    """
    folder = kernel_folder()
    if folder is None:
        return njit(function, nogil=True)
    before = config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES
    # the folder alone: else numba goes on to that of the source where this one takes no file
    config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = str(folder), UserProvidedCacheLocator.__name__
    try:
        dispatcher = njit(function, nogil=True)
        dispatcher._cache = KeptCode(function)  # as numba's `cache=True` does
        return dispatcher
    except RuntimeError:  # nothing can be kept there, or the function has no source file, by which numba names it
        return njit(function, nogil=True)
    finally:  # numba reads them for each function, and those of other packages keep their own
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = before


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
