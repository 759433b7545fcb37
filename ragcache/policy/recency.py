"""RecencyList: nodes in the order of their last use, and which of them may be evicted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

from ragcache.tree.tree import Node


class RecencyList:
    """Least recently used first. `size` is the sum of the nodes' tokens."""

    def __init__(self) -> None:
        self.size = 0
        self._nodes: OrderedDict[int, Node] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: Node) -> bool:
        return node.id in self._nodes

    def add(self, node: Node) -> None:
        """The node enters as the most recently used."""
        self._nodes[node.id] = node
        self.size += node.size

    def touch(self, node: Node) -> None:
        self._nodes.move_to_end(node.id)

    def remove(self, node: Node) -> None:
        del self._nodes[node.id]
        self.size -= node.size

    def oldest(self) -> Node:
        """The least recently used of all; KeyError if there is none."""
        return self._nodes[next(iter(self._nodes))]

    def oldest_in(self, offered: Container[int], but: Container[int] = ()) -> Node | None:
        """The least recently used of those offered, `but` for some; by id. Few are passed over: the ancestors of old
        leaves, and what is held."""
        for key, node in self._nodes.items():
            if key in offered and key not in but:
                return node
        return None
