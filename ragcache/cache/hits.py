"""Hits: which nodes of its path a request found, tier by tier, for the tiers' books and their policies."""

from __future__ import annotations

from collections.abc import Sequence

from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.lease import Lease, Sources
from ragcache.cache.tier import Tier
from ragcache.tree.segment import Segment
from ragcache.tree.tree import HOST, Node, path_key


def sources(on_device: int, tokens_on_device: int, below: Sequence[Node]) -> tuple[Sources, Sources]:
    """Nodes found by fastest tier, and their tokens: those on the device as given, and `below` on host or disk."""
    if not below:
        return (on_device, 0, 0), (tokens_on_device, 0, 0)
    on_host = [node.size for node in below if len(node.places) > HOST and node.places[HOST] is not None]
    tokens_on_disk = sum(node.size for node in below) - sum(on_host)
    return (
        (on_device, len(on_host), len(below) - len(on_host)),
        (tokens_on_device, sum(on_host), tokens_on_disk),
    )


def count(tiers: Sequence[Tier], lease: Lease, *, revoked: bool = False) -> None:
    """Books a lease's hits and misses with each tier; `revoked` takes them back, for its request asks anew."""
    missed, missed_tokens = len(lease.path), sum(lease.cached_by_tier) + lease.missed_tokens
    for tier in tiers:
        hits, tokens = lease.cached_nodes[tier.index], lease.cached_by_tier[tier.index]
        missed -= hits
        missed_tokens -= tokens
        if revoked:
            tier.revoke(hits, tokens, missed, missed_tokens)
        else:
            tier.look_up(hits, tokens, missed, missed_tokens)


def tell_misses(hierarchy: Hierarchy, last: Node, below: Sequence[Node], missing: Sequence[Segment]) -> None:
    """Tells each tier's policy what the tier and all faster ones lack of a path.

    `below` are the path's nodes that are not on the device, `missing` its segments that are nowhere, and `last` is the
    node (or root) that these follow.
    """
    device, host = hierarchy.device.policy, hierarchy.host
    for node in below:
        device.missed(node.path_key, node.size)
        if host is not None and node.places[HOST] is None:
            host.policy.missed(node.path_key, node.size)
    key = last.path_key
    for segment in missing:
        key = path_key(key, segment.key)
        device.missed(key, len(segment.tokens))
        for tier in hierarchy.lower:
            tier.policy.missed(key, len(segment.tokens))
