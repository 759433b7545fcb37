"""EventLoop: what happens next, in whole picoseconds.

Ties are broken by kind, in the order of `KINDS`, then by the order in which events were set: what ends frees its unit
before anything looks for a free one, and what arrives is seen by what looks at the same time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from pimsim.errors import WorkloadError

END, ARRIVE, TICK, LOOK = KINDS = range(4)
PS = 10**12  # in a second
HORIZON = 1 << 62  # ps: arrays of times are of 64 bits, and sums of two must fit
DAY = 86_400 * PS


def picoseconds(seconds: float) -> int:
    """Seconds, rounded to whole picoseconds."""
    return round(seconds * PS)


class EventLoop:
    """Runs callbacks in the order of their times. `now` is the time of the one that runs."""

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self._heap: list[tuple[int, int, int, Callable[[], None]]] = []
        self._set = 0

    def call_at(self, time: int, kind: int, callback: Callable[[], None]) -> None:
        """Run `callback` at that time in ps, which is not before now. WorkloadError for one too late to be counted in
        ps.
        """
        if time < self.now:
            raise ValueError(f"an event at {time} ps cannot be set at {self.now} ps")
        if time >= HORIZON:
            raise WorkloadError(
                f"the run takes more than {HORIZON // DAY} days of simulated time: take more requests a second"
                " (workload.rate_rps), fewer requests, or shorter times of its parts"
            )
        heapq.heappush(self._heap, (time, kind, self._set, callback))
        self._set += 1

    def run(self) -> None:
        """Run all callbacks until none is left."""
        while self._heap:
            self.now, _, _, callback = heapq.heappop(self._heap)
            self.events += 1
            callback()


class Server:
    """A unit that does one job after another, first come first served. `busy` is in ps."""

    def __init__(self, loop: EventLoop, name: str, spans: list[tuple[str, str, int, int]] | None) -> None:
        self.name, self.busy, self.jobs = name, 0, 0
        self._loop, self._spans, self._free = loop, spans, 0

    def do(self, duration: int, what: str, then: Callable[[], None], *, later: int = 0) -> None:
        """A job of `duration` ps; `then` runs `later` ps after its end, as behind a link's latency."""
        begin = max(self._free, self._loop.now)
        self._free = begin + duration
        self.took(what, begin, self._free)
        self._loop.call_at(self._free + later, END, then)

    def took(self, what: str, begin: int, end: int) -> None:
        """Count a job that was timed elsewhere; jobs of one unit do not overlap."""
        self.busy += end - begin
        self.jobs += 1
        if self._spans is not None and end > begin:
            self._spans.append((self.name, what, begin, end))
