"""Termination: SIGTERM as an exception that unwinds the stack, and that code which swallows it does not stop."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

AGAIN_SECONDS = 0.05


class Terminated(SystemExit):
    """SIGTERM has come; the exit status is 128 + its number, as a shell has it."""


def unwind_on_sigterm() -> None:
    """From now on SIGTERM unwinds the main thread's stack like Ctrl-C does, so that half-written files are removed.

    An exception that is raised in a callback from C, such as those of a compiler, ends there: Python reports it, and
    goes on. The signal is sent again then, until it comes at a better time. So is that of a Ctrl-C.
    """
    signal.signal(signal.SIGTERM, _unwind)
    if not isinstance(sys.unraisablehook, functools.partial):
        sys.unraisablehook = functools.partial(_send_again, sys.unraisablehook)


def _unwind(signum: int, frame: FrameType | None) -> None:
    del frame
    raise Terminated(128 + signum)


def _send_again(otherwise: Callable[[Any], object], swallowed: Any) -> None:
    numbers = {Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
    if (number := numbers.get(swallowed.exc_type)) is None:
        otherwise(swallowed)
        return
    main = threading.main_thread().ident
    again = threading.Timer(AGAIN_SECONDS, lambda: signal.pthread_kill(main, number) if main else None)
    again.daemon = True
    again.start()
