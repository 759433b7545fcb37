"""Orders: what the scheduler's half of the connector tells each worker to do with KV, and what comes back.

Both halves may live in other processes, or on other machines: orders travel with a step, in the order in which they
were given, and each worker reports how each of them ended. KV itself never travels between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ragcache.storage.record import Record, Stats

# reasons of failure that say nothing of the copy or record itself
NOT_TRIED = "not tried"  # of a piece behind one that failed
SPOILED = "spoiled"  # of a copy of blocks that a failed load left undefined


@dataclass(frozen=True, slots=True)
class Piece:
    """KV to load: of a host copy or a record, `tokens` long, its blocks from number `first` on go to `blocks`."""

    source: int | bytes  # number of a host copy, or key of a record
    tokens: int
    first: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Fill a request's blocks before they are read: in this step, or, if `waits`, while the request waits.

    Each piece is reported by its number. They follow one another: behind one that failed, none is tried.
    """

    request: str
    pieces: tuple[tuple[int, Piece], ...]
    waits: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy blocks to the host, as they are after this step's forward. The copy is known by the order's number."""

    number: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Write a record, of a host copy or of blocks as they are after this step's forward."""

    number: int
    record: Record
    source: int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove records."""

    number: int
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Learn:
    """Write down what the policies learned of records."""

    number: int
    learned: Mapping[bytes, Stats]


@dataclass(frozen=True, slots=True)
class Drop:
    """Free host copies, by number. Not reported."""

    copies: tuple[int, ...]


Order = Load | Copy | Write | Remove | Learn | Drop


@dataclass(frozen=True, slots=True)
class Orders:
    """Those of one step. `era` counts the failed loads that the scheduler knows of.

    After a load has failed, blocks may hold anything until the scheduler has heard of it: a worker copies none of an
    era in which a load of its own failed.
    """

    era: int = 0
    orders: Sequence[Order] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an order ended: `reason` is None if it was carried out. `workers` is how many have reported."""

    reason: str | None
    seconds: float
    workers: int = 1

    def joined(self, other: Outcome) -> Outcome:
        """That of several workers: it has failed where one has."""
        return Outcome(self.reason or other.reason, max(self.seconds, other.seconds), self.workers + other.workers)


@dataclass(slots=True)
class Reports:
    """Outcomes by the order's number."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def join(self, other: Reports) -> None:
        """Takes in what others report."""
        for number, outcome in other.outcomes.items():
            mine = self.outcomes.get(number)
            self.outcomes[number] = outcome if mine is None else mine.joined(outcome)
