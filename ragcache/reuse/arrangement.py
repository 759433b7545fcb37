"""Arrangement: the order in which a prompt has its documents, chosen by what is cached of it.

The KV is exact, as ever: it is that of the prompt which is read. What is chosen is which of several prompts that is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ragcache.tree.segment import Segment

ORDERS = ("retrieval", "tree")
MOST_TRIED = 2000  # orders of one prompt: a bound where a cache holds very many orders of the same documents


def check_order(name: str, error: type[Exception] = ValueError) -> None:
    """Raises an `error` unless this names an order of documents."""
    if name not in ORDERS:
        raise error(f"order is one of {', '.join(ORDERS)}, not {name!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Documents of a prompt that stand together, in this order: one, or passages that continue each other.

    Unless it is `movable`, a group keeps its place among the groups.
    """

    segments: tuple[Segment, ...]
    movable: bool = True


# tokens of the prompt that are cached where it begins with these groups, in this order, and whether that is all of it
Held = Callable[[tuple[int, ...]], tuple[int, bool]]


def arrange(groups: Sequence[Group], held: Held, popularity: Callable[[Segment], float]) -> tuple[int, ...]:
    """The order of the groups, as their numbers, in which most tokens of the prompt are cached, from its beginning.

    Of several such orders it is one that has popular documents first, and so have the documents behind what is cached:
    where prompts begin with what most of them have in common, they share most. `popularity` is how often a document was
    asked for, and of a group that of its first segment. Twice as often is worth one place: questions that share
    documents often have them in the same order, too, so that it is given up for more than a small difference.

    An order is tried only as far as it is cached, whole groups deep; after MOST_TRIED the best so far is taken.
    """
    preferred = sorted(
        range(len(groups)), key=lambda place: place - math.log2(1 + popularity(groups[place].segments[0]))
    )
    best: tuple[int, ...] = ()
    most = -1
    tried = 0
    stack: list[tuple[int, ...]] = [()]
    while stack and tried < MOST_TRIED:
        order = stack.pop()
        whole: list[tuple[int, ...]] = []
        for number in _next(groups, preferred, order):
            longer = (*order, number)
            tokens, complete = held(longer)
            tried += 1
            if tokens > most:
                best, most = longer, tokens
            if complete:
                if len(longer) == len(groups):
                    return longer
                whole.append(longer)
        stack += reversed(whole)  # what is preferred is tried next
    return _filled(groups, preferred, best)


def _next(groups: Sequence[Group], preferred: Iterable[int], order: tuple[int, ...]) -> list[int]:
    """The groups that may stand behind these."""
    place = len(order)
    if place == len(groups):
        return []
    if not groups[place].movable:
        return [place]
    return [number for number in preferred if groups[number].movable and number not in order]


def _filled(groups: Sequence[Group], preferred: Iterable[int], order: tuple[int, ...]) -> tuple[int, ...]:
    """The order with all other groups behind it, as they are preferred."""
    preferred = list(preferred)
    while len(order) < len(groups):
        order = (*order, _next(groups, preferred, order)[0])
    return order
