"""Signals: what SIGTERM, SIGINT and SIGHUP do to a process that serves."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable
from types import FrameType

log = logging.getLogger(__name__)


class Hangups:
    """SIGHUPs of this process, each of which asks for one reload: those that come while one runs ask for one more
    together.

    They are held back from its creation, on the main thread, until `serve` runs. Threads and processes that begin in
    between never get one: a terminal that closes sends it to all, and an engine's processes would die of it.
    """

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    async def serve(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Reloads when asked to, until it is cancelled."""
        self._loop = asyncio.get_running_loop()
        signal.signal(signal.SIGHUP, self._hear)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        while True:
            await self._asked.wait()
            self._asked.clear()
            await reload()

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._asked.set)  # which wakes the loop


def on_stop_signals(stop: Callable[[], None]) -> None:
    """On the first SIGTERM or SIGINT from now on, calls `stop`; on the second, ends this process at once, with status
    128 + the signal's number.

    What the disk cache holds then is what it would hold after a crash. Call on the main thread.
    """
    first = True

    def hear(signum: int, frame: FrameType | None) -> None:
        del frame
        nonlocal first
        if first:
            first = False
            stop()
            return
        log.warning("a second signal (%s): the server ends at once", signal.Signals(signum).name)
        for child in multiprocessing.active_children():  # an engine's, which would go on alone
            child.kill()
        os._exit(128 + signum)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hear)
