"""Compiled kernels: numba functions that run without the GIL, kept on disk between processes where that is possible."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called, for the types it is called with.

    The machine code is kept in the user's cache folder (`kernel_folder`), not beside the source. Only a change of the
    kernel's own file makes numba compile it again, so the functions that a kernel calls must be in the same file.
    Where nothing can be kept, each process compiles for itself.
    """
    folder = kernel_folder()
    if folder is None or not _writable(folder):
        return njit(function, nogil=True)  # with cache=True numba would go on to the source's folder
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        return njit(function, nogil=True, cache=True)
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
        return Path(os.environ.get("RAGCACHE_HOME") or "~/.cache/ragcache").expanduser() / "numba"
    except RuntimeError:
        return None


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def warm_up(call: Callable[[], object]) -> None:
    """Make the call that compiles a kernel, so that no later call waits for it.

    A full disk fails the call after compiling, when numba writes the machine code; the next call then finds the
    kernel compiled, so an OSError makes this call again.
    """
    while True:
        try:
            call()
            return
        except OSError:
            continue
