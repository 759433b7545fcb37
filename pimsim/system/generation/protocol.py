"""Protocol: what every generator promises, and the cost of a piece of generation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pimsim.result import Bound


@dataclass(frozen=True, slots=True)
class Cost:
    """What a piece of generation costs: seconds, nJ by part, and bytes over each device's link."""

    seconds: float
    energy: Mapping[str, float]
    link_bytes: float = 0.0

    def plus(self, other: Cost, times: float = 1.0) -> Cost:
        """The cost of this and `times` the other, one after the other."""
        parts = dict(self.energy)
        for part, nj in other.energy.items():
            parts[part] = parts.get(part, 0.0) + times * nj
        return Cost(self.seconds + times * other.seconds, parts, self.link_bytes + times * other.link_bytes)

    def between(self, other: Cost, share: float) -> Cost:
        """The cost at `share` of the way from this to the other, which has the same parts."""
        mine, its = self.energy, other.energy
        parts = {part: nj + (its[part] - nj) * share for part, nj in mine.items()}
        moved = self.link_bytes + (other.link_bytes - self.link_bytes) * share
        return Cost(self.seconds + (other.seconds - self.seconds) * share, parts, moved)


NOTHING = Cost(0.0, {})


class Piece(NamedTuple):
    """Tokens of one request that are prefilled together, behind `before` tokens whose KV is there."""

    tokens: int
    before: int

    @property
    def pairs(self) -> float:
        """How many pairs of a token and one that it attends to there are."""
        return self.tokens * (self.before + (self.tokens + 1) / 2)


class Pieces(NamedTuple):
    """Several pieces, by what a prefill's cost depends on; each field but `number` is a sum over them."""

    number: int
    tokens: int
    before: int
    pairs: float

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Pieces:
        """The sums over these pieces."""
        listed = list(pieces)
        sums = (sum(piece.tokens for piece in listed), sum(piece.before for piece in listed))
        return cls(len(listed), *sums, sum(piece.pairs for piece in listed))


class Generator(Protocol):
    """The devices of a system that generate. `memory_bytes` counts all of them; `idle_w` is watts while they do not
    generate.
    """

    memory_bytes: float
    idle_w: float
    bounds: list[Bound]
    smallest_piece: int  # tokens below which a prefill costs as much as with them

    def prefill(self, pieces: Pieces) -> Cost:
        """The cost of prefilling all pieces together."""

    def step(self, requests: int, context: float) -> Cost:
        """The cost of one token of each of `requests`; `context` is the sum of their tokens whose KV is read."""

    def load(self, tokens: float) -> Cost:
        """The cost of putting together the KV of `tokens` out of what is stored."""
