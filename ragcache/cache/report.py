"""CacheReport: what a knowledge cache holds, tier by tier, and what became of it, wherever it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ragcache.cache.hierarchy import Hierarchy, MoveCounts
from ragcache.cache.tier import Balance, TierCounts

T = TypeVar("T", Balance, TierCounts, MoveCounts)


@dataclass(frozen=True, slots=True)
class TierReport:
    """One tier: its nodes, its bytes, and its totals since the start."""

    name: str
    nodes: int
    balance: Balance
    counts: TierCounts


@dataclass(frozen=True, slots=True)
class CacheReport:
    """The whole cache. `moving` are moves under way, `unwritten` nodes that wait to be written to disk.

    `audits` counts recounts of its books that it did itself, and `failed_audits` those that found them wrong.
    """

    nodes: int = 0
    tiers: Sequence[TierReport] = ()
    moves: Mapping[str, MoveCounts] = field(default_factory=dict)
    moving: int = 0
    unwritten: int = 0
    audits: int = 0
    failed_audits: int = 0

    @classmethod
    def of(cls, hierarchy: Hierarchy, unwritten: int) -> CacheReport:
        """Of a cache in this process; its counts go on counting."""
        tiers = [TierReport(tier.name, tier.nodes, tier.balance(), tier.counts) for tier in hierarchy.tiers()]
        return cls(len(hierarchy.tree), tiers, hierarchy.moves, hierarchy.moving, unwritten)

    def joined(self, other: CacheReport) -> CacheReport:
        """That of both caches, which have the same tiers and share nothing."""
        tiers = [
            TierReport(
                mine.name, mine.nodes + its.nodes, _sum(mine.balance, its.balance), _sum(mine.counts, its.counts)
            )
            for mine, its in zip(self.tiers, other.tiers, strict=True)
        ]
        return CacheReport(
            self.nodes + other.nodes,
            tiers,
            {name: _sum(mine, other.moves[name]) for name, mine in self.moves.items()},
            self.moving + other.moving,
            self.unwritten + other.unwritten,
            self.audits + other.audits,
            self.failed_audits + other.failed_audits,
        )


def _sum(mine: T, its: T) -> T:
    """Field by field."""
    fields = [field.name for field in dataclasses.fields(mine)]
    return type(mine)(**{name: getattr(mine, name) + getattr(its, name) for name in fields})
