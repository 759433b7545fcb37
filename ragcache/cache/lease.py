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
    """The cache behind a lease."""

    def commit(self, lease: Lease, kv: Sequence[Any]) -> None: ...

    def end(self, lease: Lease) -> None: ...


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
    cached_nodes: Sources  # segments that were found
    cached_by_tier: Sources  # their tokens
    missed_tokens: int  # of the others
    newcomers: int = 0  # how many nodes of the path's end this request brought
    broken: bool = False
    waiting: int = 0  # moves that have to end first
    cached: int = field(init=False)  # how many segments of the path were found
    _open: bool = True
    _on_ready: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.cached = len(self.nodes)

    @property
    def cached_tokens(self) -> int:
        return sum(self.cached_by_tier)

    @property
    def missing(self) -> tuple[Segment, ...]:
        return self.path[self.cached :]

    @property
    def plan(self) -> ReusePlan:
        """Where each segment of the path gets its KV from. Made anew at each call, so that who never asks pays nothing.

        Ask once the lease is ready, and while it is open: else exact pieces may have no KV.
        """
        return prefix.plan(self.path, self.nodes[: self.cached])

    @property
    def ready(self) -> bool:
        return not self.waiting or self.broken

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Calls back once, when the lease is ready; at once if it is. One caller may ask."""
        if self.ready:
            callback()
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
        if not self._open or len(kv) > len(self.missing) or len(self.nodes) != self.cached:
            raise ValueError("a lease is committed once, while open, with the KV of its missing segments")
        self.lender.commit(self, kv)

    def release(self) -> None:
        if self._open:
            self._open = False
            self.lender.end(self)

    def arrived(self) -> None:
        """One of the moves that the lease waits for has ended."""
        self.waiting -= 1
        self.tell()

    def cut(self, at: int) -> list[Node]:
        """The node at this place of the path is lost: the lease is broken, and no longer holds what this returns."""
        self.broken = True
        lost = self.nodes[at:]
        del self.nodes[at:]
        return lost

    def tell(self) -> None:
        """Calls back who waits, if it is time."""
        if self.ready and self._on_ready is not None:
            callback, self._on_ready = self._on_ready, None
            callback()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
