"""Mover: does the work of moving KV, one piece after the other, beside the service's thread."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Moved:
    """How a piece of work ended: with a `value` or an `error`. `seconds` is its own time, without its wait."""

    value: Any
    error: Exception | None
    seconds: float


class Mover(Protocol):
    """Runs work in the order of submission, one at a time.

    `done` is called for each piece, in the same order, by the thread that submitted it once it is back in its event
    loop; a mover without a thread of its own calls it before `submit` returns.
    """

    @property
    def pending(self) -> int:
        """Number of pieces that are submitted and not done."""

    def submit(self, work: Callable[[], Any], done: Callable[[Moved], None]) -> None:
        """Queues a piece of work; what it raises ends up in `Moved.error`."""

    def close(self) -> None:
        """Finishes what was submitted; `done` may not be called for it any more."""


class InlineMover:
    """A Mover that works at once, in the caller's thread: for simulation, where a move takes no time."""

    pending = 0

    def submit(self, work: Callable[[], Any], done: Callable[[Moved], None]) -> None:
        done(timed(work))

    def close(self) -> None:
        pass


class ThreadMover:
    """A Mover with a thread of its own. To be used from a running event loop, whose thread calls `done`."""

    def __init__(self, name: str, initializer: Callable[[], None] | None = None) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=initializer)
        self._pending = 0

    @property
    def pending(self) -> int:
        return self._pending

    def submit(self, work: Callable[[], Any], done: Callable[[Moved], None]) -> None:
        loop = asyncio.get_running_loop()
        self._pending += 1

        def finish(moved: Moved) -> None:
            self._pending -= 1
            done(moved)

        def run() -> None:
            moved = timed(work)
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nothing is left that waits
                loop.call_soon_threadsafe(finish, moved)

        self._pool.submit(run)

    def close(self) -> None:
        self._pool.shutdown(wait=True)


def timed(work: Callable[[], Any]) -> Moved:
    """Does the work and returns how it ended. An Exception is returned and not raised."""
    begin = time.perf_counter()
    try:
        value, error = work(), None
    except Exception as caught:  # whatever went wrong is a failed move, never the end of the thread
        # its frames refer to the KV that was moved, and one of them to the error: a circle, which would keep the memory
        value, error = None, caught.with_traceback(None)
    return Moved(value, error, time.perf_counter() - begin)
