"""Compiled code: numba functions that run without the GIL, and the structs that they work on.

Machine code is kept between processes, in `$NUMBA_CACHE_DIR`, else in `$RAGCACHE_HOME/numba`, else in
`~/.cache/ragcache/numba`: never beside the sources, which may not be writable, or belong to others.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from numba import njit, types
from numba.core import config
from numba.core.caching import FunctionCache, UserProvidedCacheLocator
from numba.experimental import structref


class SourcesLocator(UserProvidedCacheLocator):
    """Where numba keeps a kernel, and until when: until any module of the kernel's own folder changes.

    numba alone looks at the kernel's own file, and would run old code of what it calls in the files beside it.
    """

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno
        self._cache_path = str(cache_folder() / self.get_suitable_cache_subpath(py_file))

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> SourcesLocator | None:
        """None if the sources cannot be read or the folder cannot be written: then every process compiles anew."""
        try:
            locator = cls(py_func, py_file)
            locator.get_source_stamp()
            locator.ensure_cache_path()
        except (OSError, RuntimeError):  # no home folder
            return None
        return locator

    def get_source_stamp(self) -> int:
        return _checksum(Path(self._py_file).parent)


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


def cache_folder() -> Path:
    """Where compiled code is kept. RuntimeError if it is the home folder and there is none."""
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR)
    home = os.environ.get("RAGCACHE_HOME")
    return Path(home or "~/.cache/ragcache").expanduser() / "numba"


@cache
def _checksum(folder: Path) -> int:
    """CRC-32 of all modules of a folder, in the order of their names."""
    checksum = 0
    for file in sorted(folder.glob("*.py")):
        checksum = zlib.crc32(file.read_bytes(), checksum)
    return checksum


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called, for the types that it is called with.

    It may call kernels of its own folder, and none of another: see `SourcesLocator`.
    """
    before = config.CACHE_LOCATOR_CLASSES
    config.CACHE_LOCATOR_CLASSES = f"{__name__}.{SourcesLocator.__name__}"
    try:
        compiled = njit(function, nogil=True)
        compiled._cache = KeptCode(function)  # as numba's `cache=True` does
        return compiled
    except RuntimeError:  # the folder cannot be written
        return njit(function, nogil=True)
    finally:
        config.CACHE_LOCATOR_CLASSES = before


def part(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels of its own folder call. It is kept with them, and not by itself."""
    return njit(function, nogil=True)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function into each kernel of its own folder that calls it, as if it stood there: for every event's.

    A call would pass each array as seven numbers. Divisors are taken not to be 0.
    """
    return njit(function, nogil=True, forceinline=True, error_model="numpy")


def struct(fields: type[NamedTuple]) -> Any:
    """A type with the fields of a named tuple, to be made in compiled code: `struct(*values)`.

    Kernels pass a struct on by its address; a tuple would be copied at each call, and count as a reference to each of
    its arrays. Fields can be assigned to.
    """

    @structref.register
    class Type(types.StructRef):
        def preprocess_fields(self, fields: Any) -> Any:
            return tuple((name, types.unliteral(kind)) for name, kind in fields)

    proxy = type(f"{fields.__name__}Struct", (structref.StructRefProxy,), {})
    structref.define_constructor(proxy, Type, list(fields._fields))
    structref.define_attributes(Type)
    return proxy
