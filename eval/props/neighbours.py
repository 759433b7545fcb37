"""Neighbours: processes that keep a core busy each, beside which something is measured."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

# they end by themselves if what started them was killed
_BUSY = """
import os, sys
parent, count = map(int, sys.argv[1:])
leader = os.getpid()
for _ in range(count - 1):
    if os.fork() == 0:
        parent = leader
        break
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Runs `count` busy processes until the block ends, in a session of their own, as from another terminal.

    Where the kernel divides time among sessions first (autogroups), they have a share together, otherwise one each.
    """
    if not count:
        yield
        return
    command = [sys.executable, "-S", "-c", _BUSY, str(os.getpid()), str(count)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as leader:
        try:
            yield
        finally:
            os.killpg(leader.pid, signal.SIGKILL)
