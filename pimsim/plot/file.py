"""File: checks that a plot can be written to a file, before anything is simulated for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from pimsim.errors import PimsimError

FORMATS = (".png", ".svg", ".pdf")


def check(files: Sequence[Path]) -> None:
    """PimsimError if a plot could not be written to one of them."""
    for file in files:
        if importlib.util.find_spec("matplotlib") is None:
            raise PimsimError("--plot needs matplotlib: pip install 'ragcache[plot]'")
        if file.suffix.lower() not in FORMATS:
            raise PimsimError(f"{file}: a plot's file ends in one of {', '.join(FORMATS)}")
        if not file.absolute().parent.is_dir():
            raise PimsimError(f"{file}: there is no folder {file.parent}")
