"""ReusePlan: where each part of a prompt's beginning gets its KV from.

A plan lists the segments of a path in prompt order, one piece a segment. The position of a piece is the sum of the
lengths before it. What follows the path (the question) is in no plan: it is always computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Exact:
    """Cached KV of `size` tokens that was computed behind the same tokens, at the same position.

    It equals what a prefill would compute, up to float rounding. `kv` is the memory on the device, opaque here; None
    while it is still on its way there. The engine reads it and never writes to it.
    """

    size: int
    kv: Any

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True, slots=True)
class Moved:
    """Cached KV of `size` tokens that was computed behind other tokens or at another position: an approximation.

    Its keys are rotated by `shift` positions before they are read: the position in this prompt less the one that `kv`
    was computed at. What is computed behind it depends on it, and so never becomes cached KV that counts as exact.
    """

    size: int
    kv: Any
    shift: int

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True, slots=True)
class Computed:
    """Token ids that the engine prefills, at this position and behind all pieces before it."""

    tokens: Sequence[int]

    def __len__(self) -> int:
        return len(self.tokens)


Piece = Exact | Moved | Computed
ReusePlan = tuple[Piece, ...]


class Lengths(NamedTuple):
    """Tokens of a plan by kind of piece."""

    exact: int
    moved: int
    computed: int


def lengths(plan: ReusePlan) -> Lengths:
    """Tokens of each kind; together they are the length of the path."""
    return Lengths(*(sum(len(piece) for piece in plan if isinstance(piece, kind)) for kind in (Exact, Moved, Computed)))


def exact_part(plan: ReusePlan) -> ReusePlan:
    """The pieces before the first moved one: all KV there, read or computed, equals that of a prefill."""
    return tuple(takewhile(lambda piece: not isinstance(piece, Moved), plan))


def keepable(plan: ReusePlan, computed_tokens: int) -> list[Computed]:
    """The pieces whose KV may be kept as exact, once the first `computed_tokens` of the plan's computed ones are there.

    These are complete, and behind exact and computed pieces alone. They are the first of the plan's computed pieces.
    """
    pieces: list[Computed] = []
    left = computed_tokens
    for piece in exact_part(plan):
        if isinstance(piece, Computed):
            left -= len(piece)
            if left < 0:
                break
            pieces.append(piece)
    return pieces


def prefix_and_rest(plan: ReusePlan) -> tuple[list[Exact], list[Computed]]:
    """The pieces of a plan that reads exact KV first and computes everything behind it.

    Raises ValueError for any other plan: engines that can read nothing but a prefix call this.
    """
    exact = [piece for piece in plan if isinstance(piece, Exact)]
    computed = [piece for piece in plan[len(exact) :] if isinstance(piece, Computed)]
    if len(exact) + len(computed) < len(plan):
        raise ValueError("a job's plan has to read exact KV first and compute the rest: this engine can do no other")
    return exact, computed
