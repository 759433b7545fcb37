"""What would it have done? A workload sent at its times through the service, live or in virtual time.

The package can be called: `ragcache.replay(workload, **settings)` replays a workload, or the file of one, in virtual
time on a described machine, and returns a ReplayReport, whose times are seconds. It is `ragcache.replay.run.replay`.

Settings are `hardware`, `model`, `device_cache` and `host_cache` (bytes, or a text such as "8GiB"), `policy` (a name,
`module:Class` or a class), `admission`, `share_in_flight`, `prefill_chunk`, `max_batch`, `max_prefill_batch`,
`max_waiting`, `reorder_window`, `speculate`, `order`, and of the replay itself `system_tokens`, `searches`, `prefill`,
`machine`, `seed` and `timeout_ms`. Equal arguments give equal reports. Raises ConfigError for settings that cannot be
used, TraceError for a workload that cannot.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """This package, as `ragcache.replay(...)` calls it.

    `ragcache.replay` is both a function of the Python API and this package, and importing any module in here sets the
    attribute `replay` of `ragcache` to the package. So the package itself is what can be called, in whatever order
    things are imported.
    """

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the function, which is imported for it: what `inspect.signature` and `help` read."""
        return inspect.signature(importlib.import_module("ragcache.replay.run").replay)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Calls `ragcache.replay.run.replay`: see the package's docstring."""
        return importlib.import_module("ragcache.replay.run").replay(*arguments, **settings)


sys.modules[__name__].__class__ = _CallablePackage
