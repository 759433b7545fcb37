"""Batch: the requests in hand: which wait for what, the pieces that can be prefilled, the next steps."""

from __future__ import annotations

from dataclasses import dataclass

from pimsim.system.described.config import SystemConfig
from pimsim.system.generation.protocol import Cost, Generator
from pimsim.system.run.drafts import Drafts, Kept, ToPrefill
from pimsim.system.run.event_loop import picoseconds
from pimsim.system.workload.requests import Request

SEARCHING, PREFILLING, DECODING, DONE = range(4)


@dataclass(slots=True)
class Place:
    """A request in hand, and the number of its draft.

    Its last retrieval was sent at `queried_at`, in ps, and has `changed` the documents or not.
    """

    number: int
    request: Request
    state: int = SEARCHING
    queried_at: int = 0
    retrieval: int = 0  # its row in Retrievals
    changed: bool = True


@dataclass(slots=True)
class Prefill:
    """One prefill: its cost, its tokens, and the requests in `ready`, which can be decoded after it."""

    cost: Cost
    ready: list[Place]
    tokens: int  # computed
    loaded: float  # tokens whose KV was there
    wasted: int  # tokens that were computed earlier, and are of no use


@dataclass(slots=True)
class Steps:
    """`count` tokens for each of `places`: the first takes `first` s, each further one `slope` s longer."""

    places: list[Place]
    count: int
    first: float
    slope: float
    one: Cost
    last: Cost
    begin: int = 0

    def ends(self, count: int) -> int:
        """ps from the beginning to the end of `count` tokens."""
        return picoseconds(count * self.first + self.slope * count * (count - 1) / 2)

    def cut(self, now: int) -> bool:
        """Stop with the token that is being decoded; returns whether more were to come."""
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
        """The cost of all `count` tokens; energy, like time, is linear between the first and the last."""
        middle = (self.count - 1) / 2
        parts = {}
        for part, nj in self.one.energy.items():
            parts[part] = self.count * (nj + middle * (self.last.energy.get(part, 0.0) - nj))
        return Cost(self.ends(self.count) * 1e-12, parts, self.count * self.one.link_bytes)


class Batch:
    """The requests in hand, each with a draft of its last retrieval's documents."""

    def __init__(self, config: SystemConfig, generator: Generator, drafts: Drafts) -> None:
        self.config, self.generator, self.drafts = config, generator, drafts
        self.places: list[Place] = []
        self._least = max(1, generator.smallest_piece)

    def take(self, requests: list[Request]) -> list[Place]:
        """Take these requests in hand, in place of the last batch; returns their places."""
        self.places = [Place(number, request) for number, request in enumerate(requests)]
        return self.places

    @property
    def searching(self) -> bool:
        """Whether a request waits for its documents."""
        return any(place.state == SEARCHING for place in self.places)

    @property
    def finished(self) -> bool:
        """Whether all requests are done."""
        return all(place.state == DONE for place in self.places)

    def waits(self) -> bool:
        """Whether a prefill is worth it: a request could decode after it, or it fills the arrays."""
        if self.drafts.waiting * self.config.workload.document_tokens >= self._least:
            return True
        return any(place.state == PREFILLING for place in self.places)

    def prefill(self) -> Prefill:
        """The prefill of all that is known and not prefilled yet, in the order of the requests."""
        again_all = self.config.workload.context == "all"
        first_right = Kept.DENSE if self.drafts.tree is not None else Kept.NOTHING
        later_right = Kept.ALL if self.drafts.tree is None and not again_all else first_right
        waiting = self.drafts.waits
        drafts, ready = [], []
        for place in self.places:
            request, first = place.request, place.request.retrievals == 1
            right = first_right if first else later_right
            if place.state == PREFILLING:
                question = 0
                if first:
                    question = request.question
                elif again_all and place.changed:
                    question = request.question + request.generated
                drafts.append(ToPrefill(place.number, True, right, question, place.changed))
                ready.append(place)
            elif place.state == SEARCHING and waiting[place.number]:
                # where only the order has changed, it may change again
                drafts.append(ToPrefill(place.number, False, right, 0, False))
        filled = self.drafts.prefill(drafts)
        cost = self.generator.prefill(filled.pieces)
        if filled.loaded:
            cost = cost.plus(self.generator.load(filled.loaded))
        return Prefill(cost, ready, filled.pieces.tokens, filled.loaded, filled.wasted)

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
