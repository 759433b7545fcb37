"""Neighbours: processes that keep a core busy each, beside which something is measured."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

# ends by itself if the process that started it was killed
_BUSY = "import os\nwhile os.getppid() == {parent}:\n    for _ in range(1_000_000): pass"


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Runs `count` busy processes until the block ends, in the session of the caller: each gets a thread's share."""
    code = _BUSY.format(parent=os.getpid())
    with contextlib.ExitStack() as running:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.DEVNULL)
            running.callback(process.wait)
            running.callback(process.kill)
        yield
