"""Orders: what the scheduler has each worker do with KV, and the reports that come back.

The two may live in different processes, or on different machines. Orders travel with a step, in the order in which
they were given, and each worker reports how each of them ended. KV itself never travels between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ragcache.storage.interface import OtherRecords
from ragcache.storage.record import Record, Stats

# reasons of failures that are no fault of the copy or record itself
NOT_TRIED = "not tried"  # a piece behind one that failed
SPOILED = "spoiled"  # a copy of blocks that a failed load left undefined


@dataclass(frozen=True, slots=True)
class Piece:
    """KV to load from a host copy or a record of `tokens` tokens: its blocks from number `first` on go to `blocks`."""

    source: int | bytes  # number of a host copy, or key of a record
    tokens: int
    first: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Fill a request's blocks: before this step's forward reads them, or, if `waits`, while the request waits.

    Each piece is reported by its number. They are loaded in order: behind one that failed, none is tried.
    """

    request: str
    pieces: tuple[tuple[int, Piece], ...]
    waits: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy blocks to the host, as they are after this step's forward. The order's number names the copy."""

    number: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Write a record from `source`: the number of a host copy, or blocks as they are after this step's forward.

    Each worker fills in the record's size, which is that of its share of the KV.
    """

    number: int
    record: Record
    source: int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the records of these keys; keys that are not there are ignored."""

    number: int
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Learn:
    """Write down what the policies learned of records, by key."""

    number: int
    learned: Mapping[bytes, Stats]


@dataclass(frozen=True, slots=True)
class Drop:
    """Free the host copies of these numbers. How that ends is not reported."""

    copies: tuple[int, ...]


Order = Load | Copy | Write | Remove | Learn | Drop


@dataclass(frozen=True, slots=True)
class Orders:
    """The orders of one step. `era` counts the failed loads that the scheduler knows of.

    After a load has failed, blocks may hold anything until the scheduler has heard of it. So a worker copies no blocks
    by orders of an era in which a load of its own failed.
    """

    era: int = 0
    orders: Sequence[Order] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an order ended after `seconds`: `reason` is None if it was carried out. `workers` of them have reported."""

    reason: str | None
    seconds: float
    workers: int = 1

    def joined(self, other: Outcome) -> Outcome:
        """The outcome over the workers of both: failed if it failed at one, and as slow as the slowest."""
        return Outcome(self.reason or other.reason, max(self.seconds, other.seconds), self.workers + other.workers)


@dataclass(slots=True)
class Reports:
    """Outcomes of orders, by their numbers, and by how much the records of other settings on disk have changed."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    others_change: OtherRecords = OtherRecords()

    def join(self, other: Reports) -> None:
        """Takes in the reports of other workers, or of later steps."""
        for number, outcome in other.outcomes.items():
            mine = self.outcomes.get(number)
            self.outcomes[number] = outcome if mine is None else mine.joined(outcome)
        self.others_change = self.others_change.plus(other.others_change)
