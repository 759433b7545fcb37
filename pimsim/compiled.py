"""Compiled kernels: numba functions that run without the GIL, kept on disk between processes where that is possible."""

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called, for the types it is called with.

    The machine code is kept beside the module, or else in the user's cache folder, or where NUMBA_CACHE_DIR says. Only
    a change of the kernel's own file makes it compile again, so what it calls stands in the same file.
    """
    try:
        return njit(function, nogil=True, cache=True)
    except RuntimeError:  # none of these places can be written: compile in each process
        return njit(function, nogil=True)
