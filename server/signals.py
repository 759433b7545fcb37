"""Signals: what SIGTERM, SIGINT and SIGHUP do to a process that serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType

ECHO_SECONDS = 0.3  # within which a signal that comes again is the same one: `timeout` and others pass it on twice
LAST_WORD_SECONDS = 0.2  # for the log, which may be a full pipe that nobody reads

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
            try:
                await reload()
            except Exception:  # the next SIGHUP is answered nonetheless
                log.exception("a reload failed by an error of the server")

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._asked.set)  # which wakes the loop


def on_stop_signals(stop: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
    """On the first SIGTERM or SIGINT from now on, calls `stop`; on the second, ends this process at once, with status
    128 + the signal's number. The same signal again within ECHO_SECONDS is no second one.

    What the disk cache holds then is what it would hold after a crash. Call on the main thread.
    """
    first: tuple[int, float] | None = None  # the signal, and when it came

    def hear(signum: int, frame: FrameType | None) -> None:
        del frame
        nonlocal first
        if first is None:
            first = signum, clock()
            stop()
        elif signum != first[0] or clock() - first[1] > ECHO_SECONDS:
            _end_at_once(signum)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hear)


def _end_at_once(signum: int) -> None:
    message = "a second signal (%s): the server ends at once"
    try:
        # on another thread: the handler interrupts this one anywhere, also where it waits for the log
        last_word = threading.Thread(target=log.warning, args=(message, signal.Signals(signum).name), daemon=True)
        last_word.start()
        for child in multiprocessing.active_children():  # an engine's, which would go on alone
            with contextlib.suppress(Exception):
                child.kill()
        last_word.join(LAST_WORD_SECONDS)
    finally:
        os._exit(128 + signum)
