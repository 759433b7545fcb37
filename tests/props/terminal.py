"""Terminal: what a process writes to a real pseudo-terminal."""

import os
import pty
import select
import subprocess
import termios
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 60


def on_terminal(arguments: list[str]) -> bytes:
    """What a real pseudo-terminal gets of a process' stdout and stderr."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 80))
    process = subprocess.Popen(arguments, stdout=its, stderr=its, stdin=subprocess.DEVNULL, cwd=ROOT)
    os.close(its)
    shown = b""
    while select.select([ours], [], [], PATIENCE)[0]:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(PATIENCE) == 0, shown
    return shown
