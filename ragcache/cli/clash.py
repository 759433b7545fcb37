"""Clash: a user's file that hides one of the packages this project is made of is named, before it is imported."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from ragcache.errors import ConfigError

PACKAGES = ("retrieval", "server", "pimsim")  # beside the package ragcache, and with names that others choose, too
_ROOT = Path(__file__).resolve().parents[2]


def check_packages() -> None:
    """Raises ConfigError if `import server`, `retrieval` or `pimsim` would get (or got) a file that is not ours.

    Python looks first in the folder of the script, or in the current one for `python -m ragcache`.
    """
    for name in PACKAGES:
        ours, imported = _ROOT / name / "__init__.py", _file(name)
        if imported is not None and imported != ours and ours.exists():
            what = "folder" if imported.name == "__init__.py" else "file"
            raise ConfigError(
                f"{imported} hides the package {name!r} that ragcache is installed with: rename that {what}, or "
                "move it out of the folder that Python looks into first (that of the script; with `python -m`, the "
                "current one)"
            )


def _file(name: str) -> Path | None:
    """The file that `import name` runs, or has run."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    else:
        spec = find_spec(name)
        file = None if spec is None or not spec.has_location else spec.origin
    return None if file is None else Path(file).resolve()
