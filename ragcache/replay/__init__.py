"""What would it have done? A workload sent at its times through the service, live or in virtual time.

`ragcache.replay(workload, **settings)` is `ragcache.replay.run.replay`: see there.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """This package, as `ragcache.replay(...)` calls it.

    `ragcache.replay` is both a function of the Python API and this package, and importing any module in here sets the
    attribute `replay` of `ragcache` to the package. So the package itself is what can be called, in whatever order
    things are imported.
    """

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return importlib.import_module("ragcache.replay.run").replay(*arguments, **settings)


sys.modules[__name__].__class__ = _CallablePackage
