"""VirtualMover: moves that take the time their bytes need on a link, by the clock of the running loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from ragcache.cache.mover import Moved
from ragcache.engine.simulated.engine import SimulatedKV


class VirtualMover:
    """A Mover in virtual time: a piece of work is done at once, and takes the seconds that it passes to `spend`."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Any], Callable[[Moved], None]]] = deque()
        self._busy = False
        self._spent = 0.0

    @property
    def pending(self) -> int:
        return len(self._waiting) + self._busy

    def submit(self, work: Callable[[], Any], done: Callable[[Moved], None]) -> None:
        self._waiting.append((work, done))
        if not self._busy:
            self._begin()

    def spend(self, seconds: float) -> None:
        """Lets the work that runs take this much longer."""
        self._spent += seconds

    def close(self) -> None:
        while self._waiting:
            work, _ = self._waiting.popleft()
            with contextlib.suppress(Exception):
                work()

    def _begin(self) -> None:
        self._busy = True
        work, done = self._waiting.popleft()
        self._spent = 0.0
        try:
            value, error = work(), None
        except Exception as caught:  # every error is a failed move
            value, error = None, caught.with_traceback(None)
        moved = Moved(value, error, self._spent)
        asyncio.get_running_loop().call_later(self._spent, self._end, moved, done)

    def _end(self, moved: Moved, done: Callable[[Moved], None]) -> None:
        self._busy = False
        if self._waiting:  # before the callback, which may submit more
            self._begin()
        done(moved)


class SimulatedHost:
    """A HostStore of simulated KV, over a link of `rate` bytes a second that `mover` uses in both directions."""

    def __init__(self, mover: VirtualMover, bytes_per_token: int, rate: float) -> None:
        self._mover = mover
        self._seconds_per_token = bytes_per_token / rate

    def put(self, kv: SimulatedKV) -> SimulatedKV:
        return self._copy(kv)

    def load(self, copy: SimulatedKV) -> SimulatedKV:
        return self._copy(copy)

    def _copy(self, kv: SimulatedKV) -> SimulatedKV:
        self._mover.spend(kv.length * self._seconds_per_token)
        return SimulatedKV(kv.length, kv.length)
