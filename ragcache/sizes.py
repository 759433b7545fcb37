"""Sizes: numbers of bytes as people write them, and a disk cache's folder with its size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ragcache.errors import ConfigError

_UNITS = {"": 1, "b": 1, "k": 2**10, "kib": 2**10, "kb": 10**3, "m": 2**20, "mib": 2**20, "mb": 10**6}
_UNITS |= {"g": 2**30, "gib": 2**30, "gb": 10**9, "t": 2**40, "tib": 2**40, "tb": 10**12}


def parse_size(text: str | int) -> int:
    """The number of bytes that "2GiB", "512M" (binary), "1.5GB" (decimal) or a plain number means; else ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    if match is None or match[2].lower() not in _UNITS:
        raise ConfigError(f"{text!r} is not a size: write for example 2GiB, 512MiB or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def in_words(size: int) -> str:
    """A number of bytes as people read it, such as 1.2 GiB."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


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
        """Reads `PATH:SIZE`, where the path may hold colons and the size is after the last; else ConfigError."""
        path, colon, size = text.rpartition(":")
        if not colon or not path:
            raise ConfigError(f"disk_cache is PATH:SIZE, such as /var/cache/kv:100GiB, not {text!r}")
        return cls(Path(path).expanduser(), parse_size(size))
