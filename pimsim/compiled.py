"""Compiled kernels: numba functions that run without the GIL, kept on disk between processes where that is possible."""

import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called, for the types it is called with.

    The machine code is kept beside the module, or else in the user's cache folder, or where NUMBA_CACHE_DIR says. Only
    a change of the kernel's own file makes it compile again: what it calls stands in the same file, or the kernel
    closes over a `fingerprint` of the others.
    """
    try:
        return njit(function, nogil=True, cache=True)
    except RuntimeError:  # none of these places can be written: compile in each process
        return njit(function, nogil=True)


def fingerprint(*modules: ModuleType) -> int:
    """Of the modules' sources: numba keeps a kernel by the values it closes over, too."""
    found = 0
    for module in modules:
        if module.__file__ is not None:
            found = zlib.crc32(Path(module.__file__).read_bytes(), found)
    return found
