"""Draft: what the generation devices know of a retrieval's documents, what they computed of it, and what for nothing.

A document is named by its place in the result; a place behind the last is a document that does not stay. Documents
stand in the prompt in the order of the result, as far as it is known. So where the order turns out another, the KV of
all behind the first difference was computed behind the wrong documents.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Kept(Enum):
    """What of a document's KV is right behind others than those it was computed behind."""

    NOTHING = "nothing"
    DENSE = "dense"  # all but the important tokens' (HeterRAG's g)
    ALL = "all"  # where documents behind a changed one are not computed anew anyway


@dataclass(slots=True)
class Draft:
    """Of one retrieval: `documents` are its result, `there` the places of those whose KV an earlier one left."""

    documents: Sequence[int]
    there: Collection[int] = ()
    strangers: dict[int, int] = field(default_factory=dict)  # documents that do not stay, by their places
    sent: set[int] = field(default_factory=set)  # places whose tokens are on the way, or with the devices
    order: tuple[int, ...] = ()  # of the prompt, as the devices know it
    waiting: int = 0  # documents of it that have no KV
    computed: dict[int, int] = field(default_factory=dict)  # tokens, by place, that may be of use
    wasted: int = 0  # tokens computed for nothing
    _dense: set[int] = field(default_factory=set)  # of `computed`, where only the dense part is right
    _behind: tuple[int, ...] = ()  # the order in which it was computed

    @property
    def whole(self) -> tuple[int, ...]:
        """The order once the result is known."""
        return tuple(range(len(self.documents)))

    @property
    def sequence(self) -> Sequence[int]:
        """The prompt's documents, as the devices know it."""
        count = len(self.documents)
        if not self.strangers:
            return self.documents if len(self.order) == count else [self.documents[place] for place in self.order]
        return [self.documents[place] if place < count else self.strangers[place] for place in self.order]

    @property
    def sent_in_vain(self) -> int:
        """Documents."""
        return len(self.sent.intersection(self.strangers)) if self.strangers else 0

    def send(self, order: tuple[int, ...]) -> int:
        """How many documents' tokens must be sent for this order; then they are."""
        sent, there, new = self.sent, self.there, 0
        for place in order:
            if place not in sent and place not in there:
                sent.add(place)
                new += 1
        return new

    def know(self, order: tuple[int, ...]) -> None:
        """The devices have these documents' tokens, and put them into this order."""
        self.order = order
        computed, there, waiting = self.computed, self.there, 0
        for place in order:
            if place not in computed and place not in there:
                waiting += 1
        self.waiting = waiting

    def missing(self, kept: Kept, important: int, *, last: bool) -> list[int]:
        """Indices of the order at which KV must be computed; what the order made useless is wasted.

        `important`: tokens of a document beside its dense part. `last`: the order is the result.
        """
        if self._behind and kept is not Kept.ALL:
            same = 0
            for before, now in zip(self._behind, self.order, strict=False):
                if before != now:
                    break
                same += 1
            for place in self._behind[same:]:
                if place in self.computed:
                    self._displace(place, kept, important)
        if last:
            for place in self.strangers:
                self.wasted += self.computed.pop(place, 0)
        self._behind, self.waiting = self.order, 0
        there, computed, dense = self.there, self.computed, self._dense
        return [
            at
            for at, place in enumerate(self.order)
            if place not in there and (place not in computed or place in dense)
        ]

    def _displace(self, place: int, kept: Kept, important: int) -> None:
        tokens = self.computed.pop(place)
        lost = min(tokens, important) if kept is Kept.DENSE else tokens
        self.wasted += lost
        if kept is Kept.DENSE:
            self.computed[place] = tokens - lost
            self._dense.add(place)

    def has_dense(self, at: int) -> bool:
        """Whether the dense part of the document at this index of the order is there."""
        return self.order[at] in self._dense

    def compute(self, at: int, tokens: int) -> None:
        """So many tokens are computed of the document at this index, and its KV is right."""
        place = self.order[at]
        self.computed[place] = self.computed.get(place, 0) + tokens
        self._dense.discard(place)
