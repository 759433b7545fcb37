"""CacheReport: what a knowledge cache holds, tier by tier, and its totals, in whichever process it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.moves import MoveCounts
from ragcache.cache.tier import Balance, TierCounts
from ragcache.storage.interface import OtherRecords

T = TypeVar("T", Balance, TierCounts, MoveCounts)


@dataclass(frozen=True, slots=True)
class TierReport:
    """One tier: its number of nodes, its bytes by state, and its totals since the start."""

    name: str
    nodes: int
    balance: Balance
    counts: TierCounts


@dataclass(frozen=True, slots=True)
class CacheReport:
    """The whole cache: `nodes` in its tree, its tiers, fastest first, and totals of moves by direction.

    `moving` is the number of moves under way, `unwritten` that of nodes that wait to be written to disk. `audits`
    counts the recounts of its books that the cache did by itself, `failed_audits` those of them that found an error.
    `others` is what other settings have left on the disk tier, where it counts as free.
    """

    nodes: int = 0
    tiers: Sequence[TierReport] = ()
    moves: Mapping[str, MoveCounts] = field(default_factory=dict)
    moving: int = 0
    unwritten: int = 0
    audits: int = 0
    failed_audits: int = 0
    others: OtherRecords = OtherRecords()

    @classmethod
    def of(cls, hierarchy: Hierarchy, unwritten: int) -> CacheReport:
        """Reports on a cache in this process. The counts are the cache's own, and go on changing."""
        tiers = [TierReport(tier.name, tier.nodes, tier.balance(), tier.counts) for tier in hierarchy.tiers()]
        moves = hierarchy.moves
        others = OtherRecords() if hierarchy.disk is None else hierarchy.records.others()
        return cls(len(hierarchy.tree), tiers, moves.counts, moves.pending, unwritten, others=others)

    def joined(self, other: CacheReport) -> CacheReport:
        """One report on two caches that have the same tiers and share nothing: the sums of all figures."""
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
            self.others.plus(other.others),
        )


def _sum(mine: T, its: T) -> T:
    """Adds two records of numbers field by field."""
    fields = [field.name for field in dataclasses.fields(mine)]
    return type(mine)(**{name: getattr(mine, name) + getattr(its, name) for name in fields})
