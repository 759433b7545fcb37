"""Records of nodes: what is written to disk of a node of the knowledge tree."""

from __future__ import annotations

from array import array

from ragcache.storage.record import Record, record_key
from ragcache.tree.tree import Node


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
