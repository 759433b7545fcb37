"""RecencyList: nodes in the order of their last use, and which of them may be evicted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

from ragcache.tree.tree import Node


class RecencyList:
    """Nodes by their last use, the least recently used first. `size` is the sum of their tokens."""

    def __init__(self) -> None:
        self.size = 0
        self._nodes: OrderedDict[int, Node] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: Node) -> bool:
        return node.id in self._nodes

    def add(self, node: Node) -> None:
        """Adds a node as the most recently used."""
        self._nodes[node.id] = node
        self.size += node.size

    def touch(self, node: Node) -> None:
        """Makes a node of the list the most recently used."""
        self._nodes.move_to_end(node.id)

    def remove(self, node: Node) -> None:
        """Takes a node out; KeyError if it is not in the list."""
        del self._nodes[node.id]
        self.size -= node.size

    def oldest(self) -> Node:
        """The least recently used node. The list must not be empty."""
        return self._nodes[next(iter(self._nodes))]

    def oldest_in(self, offered: Container[int], but: Container[int] = ()) -> Node | None:
        """The least recently used node whose id is in `offered` and not in `but`; None if there is none.

        Walks the list from its oldest node. Few nodes are passed over: the ancestors of old leaves, and nodes that are
        held.
        """
        for key, node in self._nodes.items():
            if key in offered and key not in but:
                return node
        return None
