"""Whole file: a file that appears once it is complete, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ragcache.errors import ConfigError


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """A path beside `file`, with its suffix, to write to. It replaces `file` if the block ends well, else it goes."""
    unfinished = _beside(file)
    try:
        yield unfinished
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def check_writable(file: Path) -> None:
    """Raises ConfigError if `file` cannot be written, to be called before the work and not after it."""
    if file.exists() and not file.is_file():
        raise ConfigError(f"cannot write {file}: it is not a regular file")
    unfinished = _beside(file)
    try:
        unfinished.touch()
        unfinished.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error


def _beside(file: Path) -> Path:
    return file.with_name(f".{os.getpid()}-{file.name}")
