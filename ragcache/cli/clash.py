"""Clash: a user's file with the name of one of the packages this project is made of, such as server.py."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from ragcache.errors import ConfigError

PACKAGES = ("retrieval", "server", "pimsim")  # beside the package ragcache, and with names that others choose, too
_ROOT = Path(__file__).resolve().parents[2]


def take_own_packages() -> None:
    """Has `import server`, `retrieval` and `pimsim` get ours in this process, whatever lies in the folders that Python
    looks into first. For a command, whose process is ours alone. Raises ConfigError if another was imported before."""
    for name in PACKAGES:
        ours = _ROOT / name / "__init__.py"
        if name in sys.modules or _file(name) == ours or not ours.exists():
            continue
        spec = spec_from_file_location(name, ours, submodule_search_locations=[str(ours.parent)])
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
    check_packages()


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
