"""AdmissionQueue: requests that wait for a slot of the batch and for KV memory, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from ragcache.cache.lease import Lease
from ragcache.schedule.order import Order, Waiting
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree

TryLease = Callable[[], Lease | None]
Leaders = Callable[[], Collection[Lease]]  # those that a lease given now would wait for


class _Entry(Waiting):
    """A waiting request, what it tries for its lease, whom it would follow, and the future that gets the lease."""

    __slots__ = ("future", "leaders", "try_lease")

    def __init__(self, path: Sequence[Segment], namespace: str, try_lease: TryLease, leaders: Leaders) -> None:
        super().__init__(path, namespace)
        self.try_lease = try_lease
        self.leaders = leaders
        self.future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()


class AdmissionQueue:
    """Gives leases in the order that `Order` says; a request that would fit waits behind the one whose turn it is.

    A request whose lease follows another one's takes a slot when its KV has come: until then it holds memory alone, and
    requests that are cached may use the slot. Then it is the next to get one, behind those whose turn was before its
    own. A request that computes documents leaves a slot for each that follows: it would compute after them anyway. No
    more follow than can run at a time: the memory of the others would push out what is cached, and none be sooner.

    There is no deadlock: what waits for its turn holds nothing, and what has a slot waits for moves at most, so that it
    ends. Of those that follow, the earliest waits for such requests alone, and has the next slot.
    Belongs to one event loop.
    """

    def __init__(
        self,
        max_running: int,
        order: Order | None = None,
        on_blocked: Callable[[Collection[Lease]], None] = lambda _: None,
    ) -> None:
        """At most `max_running` requests have a slot at a time; without an `order`, they come in that of arrival.

        `on_blocked` is called when it is a request's turn but no slot or memory is free, with the leases that the
        request would wait for if it had them.
        """
        self._on_blocked = on_blocked
        self._max_running = max_running
        self._slots_taken = 0
        # admitted without a slot, earliest turn first, and what to call when they have one
        self._following: dict[Lease, Callable[[], None]] = {}
        self._prefilling = 0
        self._left: list[asyncio.Future[None]] = []
        self._order = Order(KnowledgeTree(), 0) if order is None else order  # an empty one is false

    def __len__(self) -> int:
        """Number of waiting requests."""
        return len(self._order)

    @property
    def running(self) -> int:
        """Number of admitted requests that have not left."""
        return self._slots_taken + len(self._following)

    @property
    def following(self) -> int:
        """Number of admitted requests that have no slot yet, for they follow another one."""
        return len(self._following)

    @property
    def free_slots(self) -> int:
        """Number of requests that may compute besides those that do."""
        return self._max_running - self._slots_taken

    @property
    def pool(self) -> int:
        """Number of requests whose prompt is not computed yet, waiting or running."""
        return len(self._order) + self._prefilling

    async def admit(
        self,
        try_lease: TryLease,
        path: Sequence[Segment] = (),
        namespace: str = "default",
        leaders: Leaders = tuple,
    ) -> Lease:
        """Waits for the turn of this request and for `try_lease` to return a lease. Pair with `when_ready` and `leave`.

        `path` under `namespace` is where the order looks for what is cached of it, and `leaders` returns the leases
        that a new one would wait for. Cancelling gives up the turn, and releases a lease that has just been given.
        """
        entry = _Entry(path, namespace, try_lease, leaders)
        self._order.add(entry)
        self.advance()
        try:
            return await entry.future
        except asyncio.CancelledError:
            if entry.future.done() and not entry.future.cancelled():  # admitted and cancelled in the same turn
                self.leave(entry.future.result())
            else:
                self._order.withdraw(entry)
                self.advance()
            raise

    def admit_now(self, try_lease: TryLease) -> Lease | None:
        """Admits a request that overtakes none. Returns None if others wait, or if no slot or memory is free.

        Pair with `when_ready` and `leave`, if a lease is returned.
        """
        if len(self._order) or self.free_slots <= self.following:
            return None
        lease = try_lease()
        if lease is not None:
            self._enter(lease)
        return lease

    def when_ready(self, lease: Lease, callback: Callable[[], None]) -> None:
        """Calls back once, when an admitted request's lease is ready and it has its slot; at once if that is so."""
        if lease in self._following:
            self._following[lease] = callback
        else:
            lease.when_ready(callback)

    def renew(self, broken: Lease, lease: Lease) -> None:
        """An admitted request has a new lease for one that is broken and released."""
        self._let_go(broken)
        self._place(lease)
        self.advance()

    def prefilled(self) -> None:
        """Reports that the prompt of an admitted request is computed."""
        self._prefilling -= 1

    def leave(self, lease: Lease, *, prefilled: bool = False) -> None:
        """Takes the slot of an admitted request that ends, and releases its lease.

        `prefilled`: that its prompt is computed was reported before.
        """
        self._let_go(lease)  # first: one that takes over what it leaves may have the slot, too
        lease.release()
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
        if not self._give_slots():
            return
        while (entry := self._order.next()) is not None:
            assert isinstance(entry, _Entry)
            if entry.future.done():  # cancelled, and not yet awake to withdraw
                self._order.withdraw(entry)
                continue
            lease = entry.try_lease() if self._has_slot_for(entry) else None
            if lease is None:
                self._on_blocked(entry.leaders())
                return
            self._order.take(entry)
            self._enter(lease)
            entry.future.set_result(lease)

    def _has_slot_for(self, entry: _Entry) -> bool:
        if self.free_slots > self.following:
            return True
        if self.free_slots <= 0 or not self._order.is_cached(entry):
            return False
        return self.following < self._max_running or not entry.leaders()

    def _enter(self, lease: Lease) -> None:
        self._prefilling += 1
        self._place(lease)

    def _place(self, lease: Lease) -> None:
        """Gives a request its slot, or has it follow another one."""
        if lease.follows:
            self._following[lease] = lambda: None  # until `when_ready` says what to call
            lease.when_ready(self._give_slots)
        else:
            self._slots_taken += 1

    def _let_go(self, lease: Lease) -> None:
        """Takes a request's slot, or what it waits for one with."""
        if self._following.pop(lease, None) is None:
            self._slots_taken -= 1

    def _give_slots(self) -> bool:
        """Gives slots to those that follow and whose KV has come. Returns whether there was one for each."""
        while (lease := next((lease for lease in self._following if lease.ready), None)) is not None:
            if self.free_slots <= 0:
                self._on_blocked(())
                return False
            callback = self._following.pop(lease)
            self._slots_taken += 1
            callback()
        return True
