"""Integrity: the recount of a cache's memory against its books: free + cached + held is the capacity of each tier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.tier import Tier
from ragcache.errors import IntegrityError
from ragcache.tree.tree import DEVICE, Node

NODES_AT_ONCE = 256  # a millisecond or so


def recount(hierarchy: Hierarchy, leases: Mapping[int, int]) -> Iterator[None]:
    """Recounts tree and tiers; raises IntegrityError if the books differ. `leases`: how many hold each node, by its id.

    Pauses after every NODES_AT_ONCE nodes. Once the cache was used in a pause, the recount is void: give it up.
    """
    settled = not hierarchy.moves.pending
    tiers = hierarchy.tiers()
    books = {tier.index: [0, 0, 0] for tier in tiers}  # bytes cached, bytes held, nodes
    count = 0
    for node in hierarchy.tree.nodes():
        count += 1
        _check_place_in_tree(node)
        for tier in tiers:
            if node.places[tier.index] is not None:
                holders = leases.get(node.id, 0) if tier is hierarchy.device else 0
                held = _check_on_tier(tier, node, holders, settled=settled)
                book = books[tier.index]
                book[held] += tier.footprint(node)
                book[2] += 1
        if count % NODES_AT_ONCE == 0:
            yield
    if count != len(hierarchy.tree):
        raise IntegrityError(f"{count} nodes are in the tree, the books say {len(hierarchy.tree)}")
    for tier in tiers:
        _check_books(tier, *books[tier.index])


def _check_place_in_tree(node: Node) -> None:
    """IntegrityError unless the node is where it belongs in the tree, and on the device behind its ancestors."""
    parent = node.parent
    _expect(parent is not None and parent.children.get(node.key) is node, node, "is not its parent's child")
    assert parent is not None
    _expect(any(node.places), node, "is in the tree without KV")
    if not parent.is_root:
        _expect(
            node.places[DEVICE] is None or parent.places[DEVICE] is not None,
            node,
            "is on the device without its parent",
        )
        _expect(not node.holders or bool(parent.holders), node, "is held alone")


def _check_on_tier(tier: Tier, node: Node, leases: int, *, settled: bool) -> bool:
    """Whether the node is held on this tier. IntegrityError if something is wrong with it there.

    `leases` is the number of leases that hold it; moves may hold it too, unless the cache is `settled`.
    """
    place = node.places[tier.index]
    assert place is not None
    right = place.holders == leases if settled else place.holders >= leases
    _expect(right, node, f"counts {place.holders} holders on the {tier.name}, not {leases}")
    _expect(bool(place.holders) or place.copy is not None, node, f"has no KV on the {tier.name}")
    children = sum(child.places[tier.index] is not None for child in node.children.values())
    _expect(children == node.below[tier.index], node, f"miscounts its children on the {tier.name}")
    offered = not place.holders and not children
    _expect(tier.policy.is_offered(node) == offered, node, f"is wrongly (not) offered on the {tier.name}")
    return bool(place.holders)


def _check_books(tier: Tier, cached: int, held: int, nodes: int) -> None:
    """Compares recounted bytes and nodes of a tier with its books; IntegrityError if they differ."""
    books = (cached, held, nodes)
    if books != (tier.cached, tier.held_nodes, tier.nodes) or tier.free < 0 or tier.reserved < 0:
        raise IntegrityError(
            f"{tier.name}: recounted (cached, held, nodes) {books}, the books say {tier.balance()}, of it "
            f"{tier.reserved} reserved, and {tier.nodes} nodes"
        )


def _expect(condition: bool, node: Node, problem: str) -> None:
    if not condition:
        raise IntegrityError(f"node {node.id} ({node.label!r}) {problem}")
