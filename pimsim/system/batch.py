"""Batch: what is in hand of a batch: which requests wait for what, the pieces that can be prefilled, the next steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from pimsim.system.config import SystemConfig
from pimsim.system.cost import Cost, Generator, Piece
from pimsim.system.draft import Draft, Kept
from pimsim.system.event_loop import picoseconds
from pimsim.system.prefix_tree import BOTH, DENSE, NEITHER, PrefixTree
from pimsim.system.workload import Request

SEARCHING, PREFILLING, DECODING, DONE = range(4)


@dataclass(slots=True)
class Place:
    """A request in hand, with the draft of its last retrieval, which was `asked` at that time, in ps."""

    request: Request
    state: int = SEARCHING
    asked: int = 0
    draft: Draft = field(default_factory=lambda: Draft(()))


@dataclass(slots=True)
class Prefill:
    """What is prefilled at once, for whom; `ready` can be decoded after it."""

    cost: Cost
    ready: list[Place]
    tokens: int  # computed
    loaded: float  # tokens whose KV was there
    wasted: int  # tokens that were computed earlier, and are of no use


@dataclass(slots=True)
class Steps:
    """`count` tokens for each of `places`: the first takes `first` s, each further one `slope` longer."""

    places: list[Place]
    count: int
    first: float
    slope: float
    one: Cost
    last: Cost
    begin: int = 0

    def ends(self, count: int) -> int:
        """ps from the beginning to the end of so many tokens."""
        return picoseconds(count * self.first + self.slope * count * (count - 1) / 2)

    def cut(self, now: int) -> bool:
        """Stop with the token that is being made, if there are more; True if there were."""
        low, high = 1, self.count
        while low < high:
            middle = (low + high) // 2
            if self.begin + self.ends(middle) >= now:
                high = middle
            else:
                low = middle + 1
        shorter, self.count = low < self.count, low
        return shorter

    def cost(self) -> Cost:
        """Of `count` tokens; energy, like time, is linear between the first and the last."""
        middle = (self.count - 1) / 2
        parts = {}
        for part, nj in self.one.energy.items():
            parts[part] = self.count * (nj + middle * (self.last.energy.get(part, 0.0) - nj))
        return Cost(self.ends(self.count) * 1e-12, parts, self.count * self.one.link_bytes)


class Batch:
    """Requests in hand, with what the prefix tree remembers of earlier ones (`tree` is None without `g`)."""

    def __init__(self, config: SystemConfig, generator: Generator, tree: PrefixTree | None) -> None:
        self.config, self.generator, self.tree = config, generator, tree
        self.places: list[Place] = []
        self._tokens = config.workload.document_tokens
        self._important = max(1, round(self._tokens * config.generation.important_tokens))
        self._least = max(1, generator.smallest_piece)

    def take(self, requests: list[Request]) -> list[Place]:
        self.places = [Place(request) for request in requests]
        return self.places

    @property
    def searching(self) -> bool:
        return any(place.state == SEARCHING for place in self.places)

    @property
    def finished(self) -> bool:
        return all(place.state == DONE for place in self.places)

    def waits(self) -> bool:
        """Whether a prefill is worth its while: somebody could decode after it, or it fills the arrays."""
        documents = 0
        for place in self.places:
            if place.state == PREFILLING:
                return True
            documents += place.draft.waiting
        return documents * self._tokens >= self._least

    def prefill(self) -> Prefill:
        """All that is known and not prefilled yet, in the order of the requests."""
        stated = self.config.workload
        pieces: list[Piece] = []
        ready, loaded, wasted = [], 0.0, 0
        for place in self.places:
            request = place.request
            # where only the order has changed, it may change again
            if place.state == PREFILLING or (place.state == SEARCHING and place.draft.waiting):
                before = place.draft.wasted
                loaded += self._documents(place, pieces)
                wasted += place.draft.wasted - before
            if place.state == PREFILLING:
                if request.retrievals == 1 or (stated.context == "all" and request.changed):
                    before = len(request.documents) * stated.document_tokens
                    pieces.append(Piece(request.question + (request.made if request.retrievals > 1 else 0), before))
                if self.tree is not None and request.changed:
                    self.tree.keep(request.documents)
                ready.append(place)
        cost = self.generator.prefill(pieces)
        if loaded:
            cost = cost.plus(self.generator.load(loaded))
        return Prefill(cost, ready, sum(piece.tokens for piece in pieces), loaded, wasted)

    def _documents(self, place: Place, pieces: list[Piece]) -> float:
        """Add what must be computed of the documents that are known to `pieces`; tokens that are loaded."""
        draft, tokens, important = place.draft, self._tokens, self._important
        kept = Kept.DENSE if self.tree is not None else Kept.NOTHING
        if self.tree is None and place.request.retrievals > 1 and self.config.workload.context == "changed":
            kept = Kept.ALL
        missing = draft.missing(kept, important, last=place.state == PREFILLING)
        if not missing:
            return 0.0
        found = None if self.tree is None else self.tree.find(draft.sequence)
        loaded = 0.0
        for at in missing:
            kind = NEITHER if found is None else found[at]
            if kind == BOTH:
                computed = 0
            elif kind == DENSE or (found is not None and draft.has_dense(at)):
                computed = important
            else:
                computed = tokens
            if computed < tokens:
                loaded += tokens
            if computed:
                pieces.append(Piece(computed, at * tokens))
            draft.compute(at, computed)
        return loaded

    def steps(self) -> Steps | None:
        """The next tokens of all that can be decoded, up to the first that retrieves or is done; None if none can."""
        places = [place for place in self.places if place.state == DECODING]
        if not places:
            return None
        every = self.config.workload.retrieve_every
        count = min(place.request.next_retrieval(every) for place in places)
        context = sum(place.request.context for place in places)
        first = self.generator.step(len(places), context)
        last = self.generator.step(len(places), context + len(places) * (count - 1)) if count > 1 else first
        steps = max(1, count - 1)
        slope = (last.seconds - first.seconds) / steps
        # energy is kept as that of the first token, and of the one after it
        energy = {part: nj + (last.energy.get(part, 0.0) - nj) / steps for part, nj in first.energy.items()}
        return Steps(places, count, first.seconds, slope, first, Cost(first.seconds + slope, energy))
