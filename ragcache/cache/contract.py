"""CacheContract: what the service asks of a knowledge cache, wherever the KV lies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol

from ragcache.cache.lease import Lease
from ragcache.cache.report import CacheReport
from ragcache.cache.tier import Balance
from ragcache.tree.segment import Segment

OnMoved = Callable[[str, str, Exception | None], None]  # direction, name of the slower tier, error if it failed


class CachedPath(Protocol):
    """The end of a cached path: its last segment, behind the segments before it."""

    @property
    def path_key(self) -> int:
        """64 bits that name the whole path, the same in every process."""

    @property
    def size(self) -> int:
        """Tokens of the last segment."""


class CachedPaths(Protocol):
    """Which paths are cached, and notice of each that comes or goes. A `KnowledgeTree` is one."""

    def root(self, namespace: str) -> Any:
        """Where the paths of a namespace begin. Namespaces share no path."""

    def match(self, root: Any, path: Sequence[Segment]) -> Sequence[CachedPath]:
        """The cached prefixes of `path`, shortest first. Changes nothing."""

    def follow(self, follower: Callable[[Any, bool], None]) -> None:
        """Adds a follower, called with each `CachedPath` that becomes cached (True) or is cached no longer (False)."""


class CacheContract(Protocol):
    """A budget of device memory, leased to requests, and an account of the KV that is kept between them.

    Memory is conserved: what a lease holds or reserves is free or cached again once it is released, however its request
    ended. Belongs to one thread, the service's, and never blocks it. Bytes are those of KV on the device.

    Implemented by `KnowledgeCache`, which keeps the KV itself, and by `VllmLedger`, for KV that vLLM keeps.
    """

    @property
    def capacity(self) -> int:
        """Bytes that leases and cached KV share."""

    @property
    def keeps(self) -> bool:
        """Whether KV stays when its request has ended."""

    @property
    def shares_in_flight(self) -> bool:
        """Whether a lease may count on KV that another one's request computes; it waits until that is committed."""

    @property
    def lower_names(self) -> Sequence[str]:
        """Names of the tiers below the device, fastest first."""

    @property
    def activity(self) -> int:
        """A number that each call of `lease` and `drop_unheld` changes."""

    @property
    def idle(self) -> bool:
        """Whether no lease is open and nothing moves."""

    @property
    def moving(self) -> int:
        """Number of moves under way between tiers; a `drop_unheld` that is not done counts as one."""

    @property
    def unwritten(self) -> int:
        """Number of segments that wait to be written to disk."""

    @property
    def cached_paths(self) -> CachedPaths:
        """The paths that are cached, for the queue's order to follow."""

    def cached_as(self, path: Sequence[Segment]) -> Sequence[Segment]:
        """The segments under which `cached_paths` has `path`: a cache may cut prompts in its own way."""

    def bytes_of(self, tokens: int) -> int:
        """Bytes that the KV of `tokens` takes."""

    def can_ever_lease(self, path: Sequence[Segment], extra_tokens: int) -> bool:
        """Whether an idle cache has room for the whole of `path` and `extra_tokens`. If not, `lease` returns None."""

    def lease(self, path: Sequence[Segment], extra_tokens: int, *, namespace: str = "default") -> Lease | None:
        """Holds the longest cached prefix of `path`, and memory for its rest and for `extra_tokens`.

        Returns None, with nothing changed but a count of refusals, if running requests hold too much: never waits.
        Namespaces share nothing.
        """

    def held(self, path: Sequence[Segment], *, namespace: str = "default") -> tuple[int, bool]:
        """Tokens of the beginning of `path` that are cached on any tier, or that open leases compute and share, and
        whether no more of it ever could be. Changes nothing."""

    def leaders(self, path: Sequence[Segment], *, namespace: str = "default") -> Collection[Lease]:
        """The leases whose requests compute what `path` begins with: one of it, given now, would wait for them."""

    def drop_unheld(self) -> tuple[int, int]:
        """Gives up every segment that no request holds, on all tiers; returns how many, and the bytes of all tiers.

        Where that takes time, `moving` is above 0 until it is done, and the call after that returns what went.
        """

    def refresh(self) -> None:
        """Takes in what a cache in another process has reported since the last call. May be called at any time."""

    def report(self) -> CacheReport:
        """What the cache holds by tier, the device first, and its totals since the start."""

    def balance(self) -> Balance:
        """Bytes that are free, cached, and held by leases and moves: they add up to `capacity`."""

    def describe(self) -> str:
        """The tiers and their sizes in a line, for people."""

    def audit(self) -> Iterator[None]:
        """Recounts the books in small steps; IntegrityError if they differ.

        Begin it while `idle`, and give it up once `activity` has changed.
        """

    def check_integrity(self) -> None:
        """Recounts the books at once, at any time; IntegrityError if they differ."""

    def on_room(self, callback: Callable[[], None]) -> None:
        """Adds a callback for when the end of a move may have freed memory: a refused lease is worth another try.

        What a lease's release frees is not announced.
        """

    def on_moved(self, callback: OnMoved) -> None:
        """Adds a callback for each move that ended: its direction, the slower tier's name, the error if it failed.

        Directions are those of `moves.DIRECTIONS`, and "land" and "remove" for steps that KV and records on disk take.
        A cache in another process may leave out successes that follow a success.
        """

    def close(self) -> None:
        """Finishes moves and writes down what the policies learned. Leases are the caller's to release first."""
