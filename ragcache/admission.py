"""AdmissionQueue: requests that wait for a place in the batch and for KV memory, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ragcache.lease import Lease
from ragcache.order import Order, Waiting
from ragcache.segment import Segment
from ragcache.tree import KnowledgeTree

TryLease = Callable[[], Lease | None]


class _Entry(Waiting):
    """A waiting request, how it gets its lease, and who is to be told."""

    __slots__ = ("future", "try_lease")

    def __init__(self, path: Sequence[Segment], namespace: str, try_lease: TryLease) -> None:
        super().__init__(path, namespace)
        self.try_lease = try_lease
        self.future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()


class AdmissionQueue:
    """Leases are given in the `order`; a request that would fit waits behind the one whose turn it is.

    A waiting request holds nothing, so what runs always ends and frees its memory: there is no deadlock. Belongs to
    one event loop.
    """

    def __init__(self, max_running: int, order: Order | None = None) -> None:
        """Without an `order`, it is that of arrival."""
        self._max_running = max_running
        self._running = 0
        self._order = order or Order(KnowledgeTree(), 0)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._order)

    @property
    def running(self) -> int:
        return self._running

    async def admit(self, try_lease: TryLease, path: Sequence[Segment] = (), namespace: str = "default") -> Lease:
        """Waits for the turn of this request, then for `try_lease` to give a lease; pair with `leave`."""
        entry = _Entry(path, namespace, try_lease)
        self._order.add(entry)
        self.advance()
        try:
            return await entry.future
        except asyncio.CancelledError:
            if entry.future.done() and not entry.future.cancelled():  # admitted and cancelled in the same turn
                entry.future.result().release()
                self.leave()
            else:
                self._order.withdraw(entry)
                self.advance()
            raise

    def leave(self) -> None:
        """An admitted request has ended and released its lease."""
        self._running -= 1
        self.advance()

    def advance(self) -> None:
        """Memory may have come free: whoever is next tries again."""
        while self._running < self._max_running:
            entry = self._order.next()
            if entry is None:
                return
            assert isinstance(entry, _Entry)
            if entry.future.done():  # cancelled, and not yet awake to withdraw
                self._order.withdraw(entry)
                continue
            lease = entry.try_lease()
            if lease is None:
                return
            self._order.take(entry)
            self._running += 1
            entry.future.set_result(lease)
