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
        """Takes in KV of the next of the lease's missing segments, behind the `committed` ones."""

    def end(self, lease: Lease) -> None:
        """Lets go of what the lease holds and reserves."""

    def is_awaited(self, lease: Lease) -> bool:
        """Whether another lease waits for KV that this one's request is to compute."""


@dataclass(slots=True, eq=False)
class Lease:
    """KV that one request may read, and memory that it may fill, until it is released.

    A context manager; releasing twice is harmless. `nodes` are held in path order: those that were cached, then those
    that the request computes: from `commit` on or, where others may count on them before, from the beginning. Read
    them, and fill the memory, once the lease is `ready`: until then KV is on its way to the device or being computed
    by another request, or memory on its way to be free. If the other request gives up, this one computes what it
    waited for: ask for `cached` and all that follows from it once the lease is ready. A lease that is `broken` then
    could not get what it counted on: release it and ask for another.
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
    turn: int = 0  # its number among the leases of a cache that shares KV in flight; 0 elsewhere
    shared_tokens: int = 0  # of the cached ones, those that another request was computing when the lease was given
    committed: int = 0  # number of the missing segments whose KV was handed over
    broken: bool = False
    waiting: int = 0  # moves that have to end before it is ready
    cached: int = field(init=False)  # number of the path's segments that were cached
    _open: bool = True
    _on_ready: Callable[[], object] | None = None

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

    @property
    def follows(self) -> bool:
        """Whether it counts on KV that another request was computing when it was given, and is not ready yet."""
        return self.shared_tokens > 0 and not self.ready

    @property
    def awaited(self) -> bool:
        """Whether another lease waits for KV that this one's request is to compute."""
        return self._open and self.lender.is_awaited(self)

    def when_ready(self, callback: Callable[[], object]) -> None:
        """Calls back once, when the lease is ready; at once if it is. ValueError if another callback waits for that."""
        if self.ready:
            callback()
        elif self._on_ready is not None:
            raise ValueError("a lease has one callback, and another waits for it to be ready")
        else:
            self._on_ready = callback

    def commit(self, kv: Sequence[Any]) -> None:
        """Hands over the KV of the next of the missing segments, complete and in order, while open and ready.

        Each call goes on where the one before ended; each segment is handed over once. Only KV that was computed behind
        exact KV may be: see `reuse.plan.keepable`. Where another request was faster, its node serves and this KV stays
        with the caller until release.
        """
        if not self.ready or self.broken:
            raise ValueError("a lease is committed when it is ready, and not if it is broken")
        if not self._open or self.committed + len(kv) > len(self.missing):
            raise ValueError("a lease is committed while open, with the KV of each of its missing segments once")
        self.lender.commit(self, kv)
        self.committed += len(kv)

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

    def lack(self, depth: int) -> None:
        """The nodes from this depth on do not come: the request computes them, and waits for them no more."""
        nodes = self.nodes[depth : self.cached]
        tokens = sum(node.size for node in nodes)
        (on_device, *lower), (device_tokens, *lower_tokens) = self.cached_nodes, self.cached_by_tier
        self.cached_nodes = (on_device - len(nodes), lower[0], lower[1])
        self.cached_by_tier = (device_tokens - tokens, lower_tokens[0], lower_tokens[1])
        self.cached = depth
        self.missed_tokens += tokens
        self.shared_tokens -= tokens
        self.waiting -= len(nodes)

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
