"""contract_sites: each implementation of CacheContract with hands on what is around it, for the contract tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pytest

from ragcache.cache.contract import CacheContract
from ragcache.cache.lease import Lease
from ragcache.engine.vllm.front.vllm_kv import VllmKV
from ragcache.tree.segment import Segment
from tests.props.reported_engine import ReportedEngine
from tests.props.tiers import Kv, StoreFailure, Tiered, computed, spelled

# whole blocks of the ledger's four tokens, so that all implementations keep the same segments
SYSTEM = Segment.of("system", range(100, 108))
DOCUMENTS = [Segment.of(f"d{n}", range(1000 * n, 1000 * n + 4 + 4 * (n % 4))) for n in range(1, 8)]
CAPACITY = 256  # tokens


class Site(Protocol):
    """An implementation, and hands on what is around it."""

    cache: CacheContract
    moves_free_memory: bool

    def serve(self, path: Sequence[Segment], namespace: str = "default") -> tuple[int, int, int]:
        """One request from lease to release; returns the tokens that were cached, by tier.

        Afterwards all of its path is.
        """

    def commit(self, lease: Lease) -> None:
        """Hands over the KV of all that the lease lacks."""

    def kv(self, path: Sequence[Segment]) -> list[Any]:
        """KV of each segment of a path, as `Lease.commit` takes it."""

    def move(self, reason: str | None) -> None:
        """A move from the device to the host ends, with an error of that `reason` or without one."""

    def settle(self) -> None:
        """All that was started ends."""

    def falsify(self) -> None:
        """The books say a byte more than leases reserve."""

    def close(self) -> None: ...


class Here:
    """A KnowledgeCache over a host tier, whose moves end by `settle`."""

    moves_free_memory = True

    def __init__(self) -> None:
        self.tiered = Tiered(CAPACITY, 4 * CAPACITY, by_hand=True)
        self.cache: CacheContract = self.tiered.cache

    def serve(self, path: Sequence[Segment], namespace: str = "default") -> tuple[int, int, int]:
        lease = self.cache.lease(path, 2, namespace=namespace)
        assert lease is not None
        self.settle()
        with lease:
            self.commit(lease)
        return lease.cached_by_tier

    def commit(self, lease: Lease) -> None:
        lease.commit(computed(lease))

    def kv(self, path: Sequence[Segment]) -> list[Any]:
        return [Kv(spelled(path[: depth + 1])) for depth in range(len(path))]

    def move(self, reason: str | None) -> None:
        if reason is not None:
            self.tiered.shelf.reasons.append(reason)
        self.serve([SYSTEM])
        lease = self.cache.lease([], CAPACITY)  # the device gives its KV up
        assert lease is not None
        self.settle()
        lease.release()

    def settle(self) -> None:
        self.tiered.settle()

    def falsify(self) -> None:
        self.tiered.cache.hierarchy.device.reserved += 1

    def close(self) -> None:
        pass


class InFlight(Here):
    """The same, where leases may count on KV that is being computed."""

    def __init__(self) -> None:
        self.tiered = Tiered(CAPACITY, 4 * CAPACITY, by_hand=True, share_in_flight=True)
        self.cache = self.tiered.cache


class InVllm:
    """A VllmLedger, whose connector is one of a miniature of vLLM."""

    moves_free_memory = False

    def __init__(self) -> None:
        self._engine = ReportedEngine(blocks=CAPACITY // ReportedEngine.block_tokens)
        self._ledger = self._engine.ledger
        self.cache: CacheContract = self._ledger
        self._served = 0
        self.serve([Segment.of("first", range(8))])  # vLLM's first step brings the first bulletin
        self.cache.drop_unheld()
        self.cache.drop_unheld()

    def serve(self, path: Sequence[Segment], namespace: str = "default") -> tuple[int, int, int]:
        lease = self.cache.lease(path, 2, namespace=namespace)
        assert lease is not None
        with lease:
            sources = self._engine.serve(path, namespace).sources
            tokens = sources.get("device", 0), sources.get("host", 0), sources.get("disk", 0)
            lease.commit([VllmKV(len(segment), tokens) for segment in lease.missing])
        return lease.cached_by_tier

    def commit(self, lease: Lease) -> None:
        lease.commit([VllmKV(len(segment), (0, 0, 0)) for segment in lease.missing])

    def kv(self, path: Sequence[Segment]) -> list[Any]:
        return [VllmKV(len(segment), (0, 0, 0)) for segment in path]

    def move(self, reason: str | None) -> None:
        self._served += 1
        path = [Segment.of("new", range(5000 + 8 * self._served, 5008 + 8 * self._served))]
        with pytest.MonkeyPatch.context() as patch:
            # a success is reported that follows a failure
            patch.setattr(self._engine.engine.store._paged, "gather", _failing(reason or "busy"))
            self.serve(path)
        if reason is None:
            self.serve([Segment.of("more", [token + 4000 for token in path[0].tokens])])

    def settle(self) -> None:
        self.cache.refresh()

    def falsify(self) -> None:
        self._ledger._reserved += 1

    def close(self) -> None:
        self._engine.close()


def _failing(reason: str) -> Callable[[Sequence[int]], None]:
    def fail(blocks: Sequence[int]) -> None:
        del blocks
        raise StoreFailure(reason)

    return fail
