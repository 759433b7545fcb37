"""Sizes: numbers of bytes as people write them, and a disk cache's folder with its size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from ragcache.errors import ConfigError
from retrieval.user_path import user_path

MOST = 2**50  # bytes, a PiB: more than a machine addresses (2^48 to 2^57), and what counts bytes holds it many times
LEAST_DISK = 16 << 20  # bytes: below it, a disk cache's tables leave no room for KV

_UNITS = {"": 1, "b": 1, "k": 2**10, "kib": 2**10, "kb": 10**3, "m": 2**20, "mib": 2**20, "mb": 10**6}
_UNITS |= {"g": 2**30, "gib": 2**30, "gb": 10**9, "t": 2**40, "tib": 2**40, "tb": 10**12}


def parse_size(text: str | int, name: str = "") -> int:
    """The number of bytes that "2GiB", "512M" (binary), "1.5GB" (decimal) or a plain number means, up to MOST.

    Raises ConfigError for anything else, which names the setting `name` if there is one.
    """
    of = f"{name}: " if name else ""
    too_much = f"{of}a size is at most 1024TiB: write for example 2GiB, 512MiB or a number of bytes"
    if isinstance(text, int) and abs(text) > MOST:  # maybe of more digits than Python prints
        raise ConfigError(too_much)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    if match is None or match[2].lower() not in _UNITS:
        raise ConfigError(f"{of}{text!r} is not a size: write for example 2GiB, 512MiB or a number of bytes")
    size = Decimal(match[1]) * _UNITS[match[2].lower()]
    if size > MOST:
        raise ConfigError(too_much)
    return int(size)


def in_words(size: int) -> str:
    """A number of bytes as people read it, such as 1.2 GiB."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def in_bytes(size: int) -> str:
    """The exact number of bytes, and as people read it where that differs: 377344 bytes (368.5 KiB)."""
    exact, read = f"{size} byte{'s' * (size != 1)}", in_words(size)
    return exact if size < 2**10 else f"{exact} ({read})"


@dataclass(frozen=True, slots=True)
class DiskCache:
    """Where a disk cache lies, and how many bytes it may take.

    `replace`: what other settings have left there is removed at the start, and not only when its room is needed.
    """

    folder: Path
    size: int
    replace: bool = False

    @classmethod
    def parse(cls, text: str) -> DiskCache:
        """Reads `PATH:SIZE`, where the path may hold colons and the size is after the last.

        Raises ConfigError, which names `disk_cache`, for anything else and for a size below LEAST_DISK.
        """
        path, colon, size = text.rpartition(":")
        if not colon or not path:
            raise ConfigError(f"disk_cache is PATH:SIZE, such as /var/cache/kv:100GiB, not {text!r}")
        cache = cls(user_path(path, "disk_cache", ConfigError), parse_size(size, "disk_cache"))
        if cache.size < LEAST_DISK:
            raise ConfigError(f"disk_cache: {too_small(cache.size)}")
        return cache


def too_small(size: int) -> str:
    """What is wrong with a disk cache of `size` bytes, which is below LEAST_DISK."""
    return f"a disk tier of {in_bytes(size)} is too small; give it {LEAST_DISK >> 20} MiB or more"
