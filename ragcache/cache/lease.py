"""Lease: what one request may read of the cache, and fill, until it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from ragcache.reuse import prefix
from ragcache.reuse.plan import ReusePlan
from ragcache.tree.segment import Segment
from ragcache.tree.tree import Node

Sources = tuple[int, int, int]  # a number each for device, host and disk


class Lender(Protocol):
    """The cache behind a lease, as the lease calls it."""

    def commit(self, lease: Lease, kv: Sequence[Any]) -> None:
        """Takes in KV of the lease's missing segments, the first ones or all."""

    def end(self, lease: Lease) -> None:
        """Lets go of what the lease holds and reserves."""


@dataclass(slots=True, eq=False)
class Lease:
    """KV that one request may read, and memory that it may fill, until it is released.

    A context manager; releasing twice is harmless. `nodes` are held in path order: those that were cached, and from
    `commit` on those that were computed. Read them, and fill the memory, once the lease is `ready`: until then KV is
    on its way to the device, or memory on its way to be free. A lease that is `broken` then could not get what it
    counted on: release it and ask for another.
    """

    lender: Lender
    root: Node
    path: tuple[Segment, ...]
    nodes: list[Node]
    reserved: int  # bytes for what is missing and what else was asked for
    cached_nodes: Sources  # segments that were cached
    cached_by_tier: Sources  # their tokens
    missed_tokens: int  # of the others
    newcomers: int = 0  # nodes at the path's end that this request computed
    broken: bool = False
    waiting: int = 0  # moves that have to end before it is ready
    cached: int = field(init=False)  # number of the path's segments that were cached
    _open: bool = True
    _committed: bool = False
    _on_ready: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.cached = len(self.nodes)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the path that were cached, on any tier."""
        return sum(self.cached_by_tier)

    @property
    def missing(self) -> tuple[Segment, ...]:
        """Segments of the path that were not cached, which the request computes."""
        return self.path[self.cached :]

    @property
    def plan(self) -> ReusePlan:
        """Where each segment of the path gets its KV from. Built at each call: a simulation never asks.

        Ask once the lease is ready, and while it is open: else exact pieces may have no KV.
        """
        return prefix.plan(self.path, self.nodes[: self.cached])

    @property
    def ready(self) -> bool:
        """Whether nothing is waited for any more; a broken lease is ready, too."""
        return not self.waiting or self.broken

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Calls back once, when the lease is ready; at once if it is. ValueError if another callback waits for that."""
        if self.ready:
            callback()
        elif self._on_ready is not None:
            raise ValueError("a lease has one callback, and another waits for it to be ready")
        else:
            self._on_ready = callback

    def commit(self, kv: Sequence[Any]) -> None:
        """Hands over the KV of the missing segments, complete and in order. Call at most once, while open and ready.

        Only KV that was computed behind exact KV may be handed over: see `reuse.plan.keepable`.
        If the prompt was given up half computed, the KV of the first of them is as good. Where another request was
        faster, its node serves and this KV stays with the caller until release.
        """
        if not self.ready or self.broken:
            raise ValueError("a lease is committed when it is ready, and not if it is broken")
        if not self._open or len(kv) > len(self.missing) or self._committed:
            raise ValueError("a lease is committed once, while open, with the KV of its missing segments")
        self._committed = True
        self.lender.commit(self, kv)

    def release(self) -> None:
        """Gives everything back that the lease holds and reserves; harmless if it was released before."""
        if self._open:
            self._open = False
            self.lender.end(self)

    def arrived(self) -> None:
        """One of the moves that the lease waits for has ended."""
        self.waiting -= 1
        self.tell()

    def cut(self, depth: int) -> list[Node]:
        """Breaks the lease, for the node at this depth of the path is lost. Returns the nodes it no longer holds."""
        self.broken = True
        lost = self.nodes[depth:]
        del self.nodes[depth:]
        return lost

    def tell(self) -> None:
        """Calls back if the lease is ready and a callback is set."""
        if self.ready and self._on_ready is not None:
            callback, self._on_ready = self._on_ready, None
            callback()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
