"""Records of nodes: what is written to disk of the knowledge tree, what is learned later, and what is read at start."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from ragcache.cache.hierarchy import Hierarchy
from ragcache.storage.record import Record, Stats, record_key
from ragcache.tree.segment import Segment
from ragcache.tree.tree import DISK, Node


def record_of(node: Node, parent_key: bytes) -> Record:
    """The record of a node behind the record `parent_key`, or behind that root key. Its size is 0: the store's to say.

    Its key spells the tokens of the node's whole path.
    """
    tokens = node.tokens if isinstance(node.tokens, array) else array("i", node.tokens)
    root = node
    while root.parent is not None:
        root = root.parent
    return Record(
        key=record_key(parent_key, tokens),
        parent=parent_key,
        namespace=root.label,
        label=node.label,
        tokens=tokens,
        size=0,
        frequency=node.frequency,
        last_use=node.last_use,
        misses=node.misses,
        seconds_per_token=node.seconds_per_token,
    )


def learned(nodes: Iterable[Node]) -> dict[bytes, Stats]:
    """What the policies have learned of those of the nodes that are on disk, by record key."""
    stats: dict[bytes, Stats] = {}
    for node in nodes:
        place = node.places[DISK]
        if place is not None and place.copy is not None:
            stats[place.copy] = node.frequency, node.last_use, node.misses, node.seconds_per_token
    return stats


def restore(hierarchy: Hierarchy) -> tuple[int, int]:
    """Takes in the records that are on disk; returns the number of nodes that gives, and their highest last use.

    What does not fit, or has no parent here, is removed from the disk. For a hierarchy with a disk tier.
    """
    disk, tree, store = hierarchy.disk, hierarchy.tree, hierarchy.records
    assert disk is not None
    nodes: dict[bytes, Node] = {}
    left_out = []
    last_use = 0
    for record in store.records():  # parents before children
        parent = nodes.get(record.parent)
        if parent is None and record.parent == store.root_key(record.namespace):
            parent = tree.root(record.namespace)
        segment = Segment.of(record.label, record.tokens)
        size = store.footprint(len(segment))
        if parent is None or segment.key in parent.children or size > disk.free:
            left_out.append(record.key)
            continue
        node = nodes[record.key] = tree.insert(parent, segment)
        node.frequency, node.last_use = record.frequency, record.last_use
        node.misses, node.seconds_per_token = record.misses, record.seconds_per_token
        last_use = max(last_use, record.last_use)
        disk.enter(node, record.key)
        disk.release(node)
    hierarchy.remove_records(left_out)
    return len(nodes), last_use
