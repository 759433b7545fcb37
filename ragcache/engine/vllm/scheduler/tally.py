"""Tally: hits and misses of a request by tier, counted when it is first scheduled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.tier import Tier
from ragcache.engine.vllm.scheduler.ticket import Ticket
from ragcache.tree.tree import Node, path_key


def tally(ticket: Ticket, hierarchy: Hierarchy, nodes: Sequence[Node], nearest: Callable[[Node], Tier | None]) -> None:
    """Counts a scheduled request's segments, which are `sources` of the ticket by now, at each tier.

    `nodes` are those of its path that are in the tree, `nearest` is the tier that each would be loaded from. A tier's
    policy learns of each segment that it lacks, unless a faster tier has it. What vLLM has itself is on the device.
    """
    tiers, device = hierarchy.tiers(), hierarchy.device
    hits = dict.fromkeys((tier.name for tier in tiers), 0)
    key, end = hierarchy.tree.root(ticket.namespace).path_key, 0
    for number, segment in enumerate(ticket.path):
        key, end = path_key(key, segment.key), end + len(segment)
        tier = nearest(nodes[number]) if number < len(nodes) else None
        if end <= ticket.local:
            tier = device
            hits[device.name] += 1
        elif end - len(segment) < ticket.cached_tokens and tier is not None:
            hits[tier.name] += 1
        for faster in tiers:
            if faster is tier:
                break
            faster.policy.missed(key, len(segment))
    left, left_tokens = len(ticket.path), end
    for tier in tiers:
        tokens = min(end, ticket.sources.get(tier.name, 0))
        left, left_tokens = left - hits[tier.name], left_tokens - tokens
        tier.look_up(hits[tier.name], tokens, left, left_tokens)
