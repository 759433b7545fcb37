"""BlockLoads: brings nodes' KV from the tiers below the device into requests' blocks."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.tier import Tier
from ragcache.engine.vllm.scheduler.dispatch import Dispatch
from ragcache.engine.vllm.scheduler.ticket import Ticket
from ragcache.engine.vllm.wire.orders import NOT_TRIED, Load, Outcome, Piece
from ragcache.errors import RecordError
from ragcache.tree.tree import Node, Place

NOWHERE = -1  # stands for the number of a host copy that is gone: a load from there fails


@dataclass(frozen=True, slots=True)
class Source:
    """Where the KV of a node, which is that of the prompt's tokens [start, end), is loaded from."""

    tier: Tier
    node: Node
    place: Place
    start: int
    end: int


class BlockLoads:
    """Finds where nodes can be loaded from, gives the orders, and books how they ended."""

    def __init__(self, hierarchy: Hierarchy, dispatch: Dispatch, block_tokens: int) -> None:
        self._hierarchy = hierarchy
        self._dispatch = dispatch
        self._block = block_tokens
        self._awaited: Counter[Node] = Counter()  # how many requests wait for a load of the node

    def nearest(self, node: Node) -> Tier | None:
        """The fastest tier below the device that has the node complete."""
        for tier in self._hierarchy.lower:
            place = node.places[tier.index]
            if place is not None and place.copy is not None:
                return tier
        return None

    def sources(self, nodes: Sequence[Node], local: int, limit: int) -> list[Source]:
        """Where to load what follows the `local` first tokens from, up to the node that reaches `limit`.

        `nodes` is a path from its beginning. Ends before the first node that is nowhere complete. Changes nothing.
        """
        sources: list[Source] = []
        end = 0
        for node in nodes:
            start, end = end, end + node.size
            if end <= local:
                continue
            if start >= limit:
                break
            tier = self.nearest(node)
            if tier is None:
                break
            place = node.places[tier.index]
            assert place is not None
            sources.append(Source(tier, node, place, start, end))
        return sources

    def waits(self, sources: Sequence[Source]) -> bool:
        """Whether a request has to wait for a load from these: some lie on disk."""
        return any(source.tier is self._hierarchy.disk for source in sources)

    def awaited(self, sources: Sequence[Source]) -> bool:
        """Whether another request waits for a load of some of these: its blocks will be there for all."""
        return any(source.node in self._awaited for source in sources)

    def give(self, ticket: Ticket, sources: Sequence[Source], blocks: Sequence[int], tokens: int) -> None:
        """Orders `tokens` tokens behind the ticket's `local` ones to be loaded into the request's blocks.

        Each node is held on its tier until its load has ended. Sets `ticket.loaded_by_tier`.
        """
        ticket.loaded_by_tier = {}
        first, last = ticket.local, ticket.local + tokens
        pieces: list[tuple[int, Piece]] = []
        on_outcome: dict[int, Callable[[Outcome], None]] = {}
        waits = self.waits(sources)
        for source in sources:
            end = min(source.end, last)
            copy, name = source.place.copy, source.tier.name
            number = self._dispatch.number()
            ids = tuple(blocks[first // self._block : end // self._block])
            where = copy if source.tier is self._hierarchy.disk else copy.number
            pieces.append((number, Piece(where, source.node.size, (first - source.start) // self._block, ids)))
            ticket.loaded_by_tier[name] = ticket.loaded_by_tier.get(name, 0) + end - first
            source.tier.hold(source.node)
            hit_of = None if ticket.counted else ticket
            on_outcome[number] = functools.partial(self._ended, source, copy, hit_of, end - first, waits)
            self._awaited.update([source.node] * waits)
            first = end
        if first < last:  # lost since it was promised: a load that fails, so that vLLM computes it
            number = self._dispatch.number()
            ids = tuple(blocks[first // self._block : last // self._block])
            pieces.append((number, Piece(NOWHERE, last - first, 0, ids)))
            on_outcome[number] = _ignore
        if pieces:
            self._dispatch.give(Load(ticket.request, tuple(pieces), waits), on_outcome)

    def _ended(
        self, source: Source, copy: Any, hit_of: Ticket | None, tokens: int, awaited: bool, outcome: Outcome
    ) -> None:
        """The load of a piece of `tokens` tokens has ended, which the request waited for if it was `awaited`.

        `copy` was referred to until now, so that it was there. `hit_of` is the request that counted it as a hit.
        """
        del copy
        if awaited:
            self._awaited -= Counter([source.node])
        tier, node, moves = source.tier, source.node, self._hierarchy.moves
        direction = "from_disk" if tier is self._hierarchy.disk else "host_to_device"
        error = None if outcome.reason is None else RecordError("KV was not loaded", reason=outcome.reason)
        moves.tell(direction, tier, error)
        if outcome.reason is None:
            moves.book(direction, tier.footprint(node), outcome.seconds)
        elif hit_of is not None:  # a failed load is a miss
            hit_of.sources[tier.name] -= tokens
            tier.miss_after_all(tokens)
        broken = outcome.reason is not None and outcome.reason != NOT_TRIED
        if broken:
            tier.fail(str(outcome.reason))
        if node.places[tier.index] is not source.place:
            return
        tier.release(node)
        if broken:  # a copy that cannot be read is given up
            self._hierarchy.discard(tier, node)


def _ignore(outcome: Outcome) -> None:
    del outcome
