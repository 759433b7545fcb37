"""QueuePolicy: what policies made of queues share in a tree, the set of nodes that may go."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ragcache.tree.tree import Node


class QueuePolicy(ABC):
    """Base of policies that keep every node in queues of their own, and pass over those that are not offered."""

    def __init__(self) -> None:
        self._offered: set[int] = set()

    def offer(self, node: Node) -> None:
        self._offered.add(node.id)

    def withdraw(self, node: Node) -> None:
        self._offered.remove(node.id)

    def is_offered(self, node: Node) -> bool:
        return node.id in self._offered

    def victim(self) -> Node:
        if not self._offered:
            raise LookupError("no node is offered")
        return self._choose()

    def removed(self, node: Node, *, evicted: bool) -> None:
        self._offered.discard(node.id)
        self._forget(node, evicted)

    @abstractmethod
    def missed(self, path_key: int, size: int) -> None: ...

    @abstractmethod
    def inserted(self, node: Node) -> None: ...

    @abstractmethod
    def used(self, node: Node) -> None: ...

    @abstractmethod
    def _choose(self) -> Node:
        """Chooses an offered node. Called only while there is one."""

    @abstractmethod
    def _forget(self, node: Node, evicted: bool) -> None:
        """Takes the node out of the queues, and remembers what the policy remembers of evictions."""
