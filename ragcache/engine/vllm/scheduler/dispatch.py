"""Dispatch: the orders for the workers' next step, and what becomes of those given before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ragcache.cache.mover import Moved
from ragcache.engine.vllm.wire.orders import Copy, Drop, Order, Orders, Outcome, Remove, Reports, Write
from ragcache.errors import RecordError
from ragcache.storage.interface import OtherRecords

Work = Callable[[], Any]
Done = Callable[[Moved], None]
OnOutcome = Callable[[Outcome], None]


class Dispatch:
    """Gives orders to `workers` workers, each of which carries out all of them, and reports how each ended.

    `era` counts the failed loads that are known of: see Orders.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._numbers = 0
        self._orders: list[Order] = []
        self._dropped: list[int] = []
        self._queue: list[tuple[Work, Done]] = []
        self._on_outcome: dict[int, OnOutcome] = {}  # by the order's number
        self._reports = Reports()
        self.era = 0
        self.others_change = OtherRecords()  # at all workers, since they started

    @property
    def busy(self) -> bool:
        """Whether an order waits to be given, or has not been reported yet."""
        return bool(self._queue or self._orders or self._on_outcome)

    def number(self) -> int:
        """A new number for an order."""
        self._numbers += 1
        return self._numbers

    def give(self, order: Order, on_outcome: Mapping[int, OnOutcome]) -> None:
        """Puts an order into the next step. `on_outcome` is called for each number once all workers have reported."""
        self._orders.append(order)
        self._on_outcome.update(on_outcome)

    def submit(self, work: Work, done: Done) -> None:
        """Calls `work` when the next step is put together, to give one order; `done` once that has ended."""
        self._queue.append((work, done))

    def drop(self, copy: int) -> None:
        """Has the workers free the host copy of that number."""
        self._dropped.append(copy)

    def take(self) -> Orders:
        """The orders for the workers' next step."""
        while self._queue:
            work, done = self._queue.pop(0)
            before = len(self._orders)
            try:
                value = work()
            except Exception as error:  # a move that cannot be made is a failed move
                done(Moved(None, error.with_traceback(None), 0.0))
                continue
            given = [order.number for order in self._orders[before:] if isinstance(order, Copy | Write | Remove)]
            assert len(given) == 1, "a move is one order"
            self._on_outcome[given[0]] = _ending(done, value)
        dropped, self._dropped = self._dropped, []
        orders: list[Order] = [Drop(tuple(dropped))] if dropped else []
        orders += self._orders
        self._orders = []
        return Orders(self.era, orders)

    def hear(self, reports: Reports) -> None:
        """Takes in workers' reports. Outcomes are passed on in the order in which their orders were numbered."""
        self._reports.join(reports)
        self.others_change = self._reports.others_change
        for number in sorted(self._reports.outcomes):
            if self._reports.outcomes[number].workers >= self._workers:
                outcome = self._reports.outcomes.pop(number)
                on_outcome = self._on_outcome.pop(number, None)
                if on_outcome is not None:
                    on_outcome(outcome)


def _ending(done: Done, value: Any) -> OnOutcome:
    """Calls `done` with the order's outcome: a move that yields `value`, or a RecordError."""

    def end(outcome: Outcome) -> None:
        error = None
        if outcome.reason is not None:
            error = RecordError("a worker could not move KV; its log says more", reason=outcome.reason)
        done(Moved(value, error, outcome.seconds))

    return end
