"""Contract: what the service asks of a knowledge cache, wherever the KV lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ragcache.cache.lease import Lease
from ragcache.cache.report import CacheReport
from ragcache.cache.tier import Balance
from ragcache.tree.segment import Segment


class CachedPath(Protocol):
    """A path's end: one segment behind its ancestors, `size` tokens long."""

    @property
    def path_key(self) -> int: ...

    @property
    def size(self) -> int: ...


class CachedPaths(Protocol):
    """A knowledge tree, or what is known of one: see KnowledgeTree."""

    def root(self, namespace: str) -> Any: ...

    def match(self, root: Any, path: Sequence[Segment]) -> Sequence[CachedPath]: ...

    def follow(self, follower: Callable[[Any, bool], None]) -> None: ...


class CacheContract(Protocol):
    """What the service, its queue and its generations call. Belongs to one thread, the service's; never blocks it.

    Memory is conserved: whatever a lease holds or reserves is back once it is released, however its request ended.
    Implemented by `KnowledgeCache`, which keeps the KV itself, and by the ledger in front of vLLM, which keeps none.
    """

    @property
    def capacity(self) -> int:
        """Bytes of KV that the device has room for."""

    @property
    def keeps(self) -> bool:
        """Whether KV stays when its request has ended."""

    @property
    def lower_names(self) -> Sequence[str]:
        """Names of the tiers below the device, fastest first."""

    @property
    def activity(self) -> int:
        """A number that differs after each call which changed what is leased or kept."""

    @property
    def idle(self) -> bool:
        """Whether no lease is open and nothing moves."""

    @property
    def moving(self) -> int:
        """Number of moves under way between tiers."""

    @property
    def unwritten(self) -> int:
        """Number of nodes that wait to be written to disk."""

    @property
    def cached_paths(self) -> CachedPaths:
        """The paths that are cached, for the queue's order to follow."""

    def cached_as(self, path: Sequence[Segment]) -> Sequence[Segment]:
        """The segments under which `cached_paths` has `path`, where the cache cuts prompts in its own way."""

    def bytes_of(self, tokens: int) -> int:
        """Bytes of device KV that this number of tokens takes."""

    def can_ever_lease(self, path: Sequence[Segment], extra_tokens: int) -> bool:
        """Whether the whole path and `extra_tokens` fit into an idle cache."""

    def lease(self, path: Sequence[Segment], extra_tokens: int, *, namespace: str = "default") -> Lease | None:
        """Holds the longest cached prefix of `path`, and memory for its rest and for `extra_tokens`.

        Returns None, with nothing changed, if running requests hold too much: never waits. Namespaces share nothing.
        """

    def drop_unheld(self) -> tuple[int, int]:
        """Gives up every node that no request holds, on all tiers; returns how many nodes and bytes that were."""

    def refresh(self) -> None:
        """Takes in what a cache in another process has reported since the last call."""

    def report(self) -> CacheReport:
        """What the cache holds by tier, and its totals since the start."""

    def balance(self) -> Balance:
        """Bytes of the device that are free, cached and held: they add up to `capacity`."""

    def describe(self) -> str:
        """The tiers and their sizes in a line, for people."""

    def audit(self) -> Iterator[None]:
        """Recounts the books in small steps; IntegrityError if they differ. Void once `activity` has changed."""

    def check_integrity(self) -> None:
        """Recounts the books at once; IntegrityError if they differ."""

    def on_room(self, callback: Callable[[], None]) -> None:
        """Adds a callback for when memory may have come free, so that a refused lease is worth another try."""

    def on_moved(self, callback: Callable[[str, str, Exception | None], None]) -> None:
        """Adds a callback for each move that ended: its direction, the slower tier's name, the error if it failed."""

    def close(self) -> None:
        """Finishes moves and writes down what the policies learned. Leases are the caller's to release first."""
