"""Moves: KV on its way between tiers, what all moves have taken so far, and callbacks for how each ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ragcache.cache.mover import InlineMover, Moved, Mover
from ragcache.cache.tier import Tier
from ragcache.errors import reason_of
from ragcache.tree.tree import Node

DIRECTIONS = ("device_to_host", "host_to_device", "to_disk", "from_disk")


@dataclass(slots=True)
class MoveCounts:
    """Totals of moves in one direction: how many, their bytes on the slower tier, and the seconds they took."""

    moves: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Arrival:
    """KV on its way. `value` is there for moves queued behind this one as soon as the mover is done with it."""

    value: Any = None
    finished: bool = False
    callbacks: list[Callable[[], None]] = field(default_factory=list)

    def finish(self) -> None:
        """Marks the move as ended, well or not, and calls those that wait for it."""
        self.finished = True
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


class Moves:
    """The moves between tiers: `copies` between device and host, `writes` to disk, `reads` from there.

    Without movers, moves are made at once. `counts` are totals by direction (DIRECTIONS).
    """

    def __init__(self, copies: Mover | None, writes: Mover | None, reads: Mover | None) -> None:
        self.copies: Mover = copies or InlineMover()
        self.writes: Mover = writes or InlineMover()
        self.reads: Mover = reads or InlineMover()
        self.counts = {direction: MoveCounts() for direction in DIRECTIONS}
        self._swap_outs: list[Arrival] = []
        self._strays: list[Arrival] = []
        self._on_room: list[Callable[[], None]] = []
        self._on_moved: list[Callable[[str, str, Exception | None], None]] = []

    @property
    def pending(self) -> int:
        """Number of moves that have not ended."""
        return self.copies.pending + self.writes.pending + self.reads.pending

    def on_room(self, callback: Callable[[], None]) -> None:
        """Adds a callback for when a move has ended that held memory."""
        self._on_room.append(callback)

    def on_moved(self, callback: Callable[[str, str, Exception | None], None]) -> None:
        """Adds a callback for each move that ended: its direction, the slower tier's name, the error if it failed.

        Two steps come with a name in place of a direction: "land" (a record read goes to the device) and "remove".
        """
        self._on_moved.append(callback)

    @property
    def swap_outs(self) -> list[Arrival]:
        """Moves whose device memory counts as free, and is not until they end: a lease that fills memory waits."""
        if self._swap_outs:
            self._swap_outs = [arrival for arrival in self._swap_outs if not arrival.finished]
        return self._swap_outs

    def add_swap_out(self, arrival: Arrival) -> None:
        """Notes a move whose device memory counts as free already."""
        self._swap_outs.append(arrival)

    @property
    def has_strays(self) -> bool:
        """Whether KV is on its way to the device that is useless, since an ancestor of it failed to load.

        It takes memory that counts as free, and there is nothing to wait for but its end.
        """
        if self._strays:
            self._strays = [arrival for arrival in self._strays if not arrival.finished]
        return bool(self._strays)

    def add_stray(self, arrival: Arrival) -> None:
        """Notes KV on its way to the device whose node has left the tree."""
        self._strays.append(arrival)

    def ended(self, direction: str, tier: Tier, node: Node, moved: Moved) -> None:
        """Books a node's move between `tier` and a faster one, or its failure, and tells the listeners."""
        self.step_ended(direction, tier, moved)
        if moved.error is None:
            self.book(direction, tier.footprint(node), moved.seconds)

    def step_ended(self, step: str, tier: Tier, moved: Moved) -> None:
        """Tells the listeners of a step that does not count as a move, and books its failure."""
        if moved.error is not None:
            tier.fail(reason_of(moved.error))
        self.tell(step, tier, moved.error)

    def book(self, direction: str, size: int, seconds: float) -> None:
        """Counts a move of `size` bytes that has succeeded."""
        counts = self.counts[direction]
        counts.moves += 1
        counts.bytes += size
        counts.seconds += seconds

    def tell(self, step: str, tier: Tier, error: Exception | None) -> None:
        """Tells the listeners of `on_moved`, and books nothing."""
        for callback in self._on_moved:
            callback(step, tier.name, error)

    def tell_room(self) -> None:
        """Tells the listeners of `on_room` that memory may have come free."""
        for callback in self._on_room:
            callback()

    def close(self) -> None:
        """Finishes the moves under way."""
        for mover in (self.reads, self.copies, self.writes):
            mover.close()
