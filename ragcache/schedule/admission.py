"""AdmissionQueue: requests that wait for a slot of the batch and for KV memory, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ragcache.cache.lease import Lease
from ragcache.schedule.order import Order, Waiting
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree

TryLease = Callable[[], Lease | None]


class _Entry(Waiting):
    """A waiting request, the call that tries for its lease, and the future that the lease is delivered to."""

    __slots__ = ("future", "try_lease")

    def __init__(self, path: Sequence[Segment], namespace: str, try_lease: TryLease) -> None:
        super().__init__(path, namespace)
        self.try_lease = try_lease
        self.future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()


class AdmissionQueue:
    """Gives leases in the order that `Order` says; a request that would fit waits behind the one whose turn it is.

    A waiting request holds nothing, so running requests always end and free their memory: there is no deadlock.
    Belongs to one event loop.
    """

    def __init__(
        self, max_running: int, order: Order | None = None, on_blocked: Callable[[], None] = lambda: None
    ) -> None:
        """At most `max_running` requests are admitted at a time; without an `order`, in that of arrival.

        `on_blocked` is called when it is a request's turn but no slot or memory is free.
        """
        self._on_blocked = on_blocked
        self._max_running = max_running
        self._running = 0
        self._prefilling = 0
        self._left: list[asyncio.Future[None]] = []
        self._order = Order(KnowledgeTree(), 0) if order is None else order  # an empty one is false

    def __len__(self) -> int:
        """Number of waiting requests."""
        return len(self._order)

    @property
    def running(self) -> int:
        """Number of admitted requests that have not left."""
        return self._running

    @property
    def pool(self) -> int:
        """Number of requests whose prompt is not computed yet, waiting or running."""
        return len(self._order) + self._prefilling

    async def admit(self, try_lease: TryLease, path: Sequence[Segment] = (), namespace: str = "default") -> Lease:
        """Waits for the turn of this request and for `try_lease` to return a lease. Pair with `leave`.

        `path` under `namespace` is where the order looks for what is cached of it. Cancelling gives up the turn, and
        releases a lease that has just been given.
        """
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

    def admit_now(self, try_lease: TryLease) -> Lease | None:
        """Admits a request that overtakes none. Returns None if others wait, or if no slot or memory is free.

        Pair with `leave`, if a lease is returned.
        """
        if len(self._order) or self._running >= self._max_running:
            return None
        lease = try_lease()
        if lease is not None:
            self._enter()
        return lease

    def prefilled(self) -> None:
        """Reports that the prompt of an admitted request is computed."""
        self._prefilling -= 1

    def leave(self, *, prefilled: bool = False) -> None:
        """Reports that an admitted request has ended and released its lease. `prefilled`: it was reported before."""
        self._running -= 1
        self._prefilling -= not prefilled
        left, self._left = self._left, []
        for future in left:
            if not future.done():
                future.set_result(None)
        self.advance()

    def next_leave(self) -> asyncio.Future[None]:
        """A future that is done when the next admitted request has left."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left.append(future)
        return future

    def advance(self) -> None:
        """Lets the next request try again, and those behind it. Call when memory may have come free."""
        while (entry := self._order.next()) is not None:
            assert isinstance(entry, _Entry)
            if entry.future.done():  # cancelled, and not yet awake to withdraw
                self._order.withdraw(entry)
                continue
            lease = entry.try_lease() if self._running < self._max_running else None
            if lease is None:
                self._on_blocked()
                return
            self._order.take(entry)
            self._enter()
            entry.future.set_result(lease)

    def _enter(self) -> None:
        self._running += 1
        self._prefilling += 1
