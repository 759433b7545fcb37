"""AdmissionQueue: requests that wait for a place in the batch and for KV memory, in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ragcache.cache import Lease

TryLease = Callable[[], Lease | None]


class AdmissionQueue:
    """Leases are given in order of arrival: a request that would fit waits behind one that does not yet.

    A waiting request holds nothing, so what runs always ends and frees its memory: there is no deadlock. Belongs to
    one event loop.
    """

    def __init__(self, max_running: int) -> None:
        self._max_running = max_running
        self._running = 0
        self._waiting: deque[tuple[TryLease, asyncio.Future[Lease]]] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        return self._running

    async def admit(self, try_lease: TryLease) -> Lease:
        """Waits for the turn of this request, then for `try_lease` to give a lease; pair with `leave`."""
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        entry = (try_lease, future)
        self._waiting.append(entry)
        self.advance()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # admitted and cancelled in the same turn of the loop
                future.result().release()
                self.leave()
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self.advance()
            raise

    def leave(self) -> None:
        """An admitted request has ended and released its lease."""
        self._running -= 1
        self.advance()

    def advance(self) -> None:
        """Memory may have come free: whoever is next tries again."""
        while self._waiting and self._running < self._max_running:
            try_lease, future = self._waiting[0]
            if future.done():
                self._waiting.popleft()
                continue
            lease = try_lease()
            if lease is None:
                return
            self._waiting.popleft()
            self._running += 1
            future.set_result(lease)
