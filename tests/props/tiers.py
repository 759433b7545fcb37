"""Tiers of the smallest kind, for tests: stores that remember what they were given, and a mover worked by hand."""

from __future__ import annotations

import hashlib
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ragcache.cache.cache import KnowledgeCache, Lease
from ragcache.cache.interface import DiskTier, HostTier
from ragcache.cache.mover import Moved, timed
from ragcache.policy import POLICIES
from ragcache.storage.interface import DeviceKV, HostKV, OtherRecords
from ragcache.storage.record import Record
from ragcache.tree.segment import Segment

SYSTEM = Segment.of("system", [1, 2, 3])
DOCUMENTS = [Segment.of(f"d{i}", [10 + i] * (1 + i % 4)) for i in range(7)]
PAGE = 2  # bytes: what a record takes is a multiple


class StoreFailure(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Kv:
    """Memory of one segment, which remembers what was computed into it: a prefix and the segment."""

    def __init__(self, content: tuple[tuple[int, ...], ...], alive: weakref.WeakSet[Kv] | None = None) -> None:
        self.content = content
        if alive is not None:
            alive.add(self)

    @property
    def size(self) -> int:
        return len(self.content[-1])


def spelled(path: Sequence[Segment]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(segment.tokens) for segment in path)


def computed(lease: Lease, alive: weakref.WeakSet[Kv] | None = None) -> list[Kv]:
    return [Kv(spelled(lease.path[: depth + 1]), alive) for depth in range(lease.cached, len(lease.path))]


class Store:
    """Fails the next calls for the `reasons` it is given."""

    def __init__(self) -> None:
        self.reasons: deque[str] = deque()

    def _maybe_fail(self) -> None:
        if self.reasons:
            raise StoreFailure(self.reasons.popleft())


class Shelf(Store):
    """Host memory: copies are tuples, so a copy is never the device's object."""

    def __init__(self, alive: weakref.WeakSet[Kv]) -> None:
        super().__init__()
        self._alive = alive

    def put(self, kv: Kv) -> Any:
        self._maybe_fail()
        return ("host", kv.content)

    def load(self, copy: Any) -> Kv:
        self._maybe_fail()
        assert copy[0] == "host"
        return Kv(copy[1], self._alive)


class Box(Store):
    """A disk of records by key."""

    def __init__(self, alive: weakref.WeakSet[Kv]) -> None:
        super().__init__()
        self._alive = alive
        self.records: dict[bytes, Any] = {}
        self.not_removed: set[bytes] = set()  # keys whose removal failed

    def root_key(self, namespace: str) -> bytes:
        return hashlib.blake2b(namespace.encode(), digest_size=32).digest()

    def footprint(self, tokens: int) -> int:
        return -(-tokens // PAGE) * PAGE

    def others(self) -> OtherRecords:
        return OtherRecords()

    def write(self, record: Record, kv: DeviceKV | HostKV) -> None:
        self._maybe_fail()
        assert record.key not in self.records
        self.records[record.key] = kv.content.content if isinstance(kv, DeviceKV) else kv.content[1]

    def read(self, key: bytes, tokens: int) -> Any:
        self._maybe_fail()
        if key not in self.records:
            raise StoreFailure("missing")
        content = self.records[key]
        assert len(content[-1]) == tokens
        return ["read", content]

    def land(self, read_kv: Any) -> Kv:
        self._maybe_fail()
        return Kv(read_kv[1], self._alive)

    def remove(self, keys: Sequence[bytes]) -> None:
        if self.reasons:
            self.not_removed.update(keys)
        self._maybe_fail()
        for key in keys:
            self.records.pop(key, None)


class HandMover:
    """A mover that works when `work` is called, and reports it when `tell` is: two steps, as with a thread."""

    def __init__(self) -> None:
        self._work: deque[tuple[Callable[[], Any], Callable[[Moved], None]]] = deque()
        self._news: deque[tuple[Callable[[Moved], None], Moved]] = deque()

    @property
    def pending(self) -> int:
        return len(self._work) + len(self._news)

    def submit(self, work: Callable[[], Any], done: Callable[[Moved], None]) -> None:
        self._work.append((work, done))

    def work(self) -> None:
        if self._work:
            work, done = self._work.popleft()
            self._news.append((done, timed(work)))

    def tell(self) -> None:
        if self._news:
            done, moved = self._news.popleft()
            done(moved)

    def close(self) -> None:
        pass


class Tiered:
    """A cache of one byte a token over a shelf and a box, with whatever each is made of at hand."""

    def __init__(
        self,
        device: int,
        host: int = 0,
        disk: int = 0,
        policy: str = "lru",
        *,
        by_hand: bool = False,
        **options: Any,
    ) -> None:
        self.alive: weakref.WeakSet[Kv] = weakref.WeakSet()
        self.shelf, self.box = Shelf(self.alive), Box(self.alive)
        self.copies, self.writes, self.reads = (HandMover() if by_hand else None for _ in range(3))
        make = POLICIES[policy]
        self.cache = KnowledgeCache(
            device,
            1,
            make(device),
            host=HostTier(host, 1, make(host), self.shelf) if host else None,
            disk=DiskTier(disk, make(disk), self.box) if disk else None,
            copies=self.copies,
            writes=self.writes,
            reads=self.reads,
            **options,
        )

    def use(self, path: Sequence[Segment], extra: int = 0) -> tuple[int, int, int]:
        """One request from lease to release; returns the tokens found on device, host and disk."""
        lease = self.cache.lease(path, extra)
        assert lease is not None
        with lease:
            self.settle()
            assert lease.ready
            if lease.broken:
                lease.release()
                return self.use(path, extra)
            for depth, node in enumerate(lease.nodes[: lease.cached]):
                assert node.kv.content == spelled(path[: depth + 1])
            lease.commit(computed(lease, self.alive))
        self.settle()
        self.cache.check_integrity()
        return lease.cached_by_tier

    def settle(self) -> None:
        """All moves end."""
        for mover in (self.copies, self.writes, self.reads) * 50:
            while mover is not None and mover.pending:
                mover.work()
                mover.tell()

    def on(self, tier: int) -> set[tuple[str, ...]]:
        """Labels of the paths that have a place on a tier."""
        return {
            tuple(each.label for each in node.path())
            for node in self.cache.tree.nodes()
            if node.places[tier] is not None
        }


def snapshot(cache: KnowledgeCache) -> list[tuple[int, int, int, int]]:
    return sorted((node.id, node.holders, node.frequency, node.last_use) for node in cache.tree.nodes())


def use(cache: KnowledgeCache, path: Sequence[Segment], extra: int = 0) -> int:
    """One request from lease to release; returns how many segments were cached."""
    lease = cache.lease(path, extra)
    assert lease is not None
    with lease:
        lease.commit(computed(lease))
        return lease.cached
