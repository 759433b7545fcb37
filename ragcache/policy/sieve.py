"""SIEVE: a hand that sifts a queue and never moves what it spares (Zhang et al., NSDI 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from ragcache.policy.queues import QueuePolicy
from ragcache.tree.tree import Node


@dataclass(slots=True, eq=False)
class _Link:
    """A node in the queue, between the next older and the next newer one."""

    node: Node | None
    older: _Link
    newer: _Link
    visited: bool = False


class SIEVE(QueuePolicy):
    """New nodes enter at the head; the hand walks from the tail to the head, and again from the tail."""

    def __init__(self) -> None:
        super().__init__()
        self._links: dict[int, _Link] = {}
        ring = _Link.__new__(_Link)
        ring.node, ring.older, ring.newer, ring.visited = None, ring, ring, False
        self._ring = ring  # between head and tail: its `newer` is the tail, its `older` the head
        self._hand = ring

    def missed(self, path_key: int, size: int) -> None:
        del path_key, size  # keeps no ghosts

    def inserted(self, node: Node) -> None:
        head = self._ring.older
        link = _Link(node, head, self._ring)
        head.newer = self._ring.older = link
        self._links[node.id] = link

    def used(self, node: Node) -> None:
        self._links[node.id].visited = True

    def _choose(self) -> Node:
        # Algorithm 1: obj = hand, or the tail; while obj was visited: clear it, obj = the next towards the head, or
        # the tail again; the hand stays there. What is not offered is passed over, and its bit left alone
        link = self._hand
        while True:
            if link.node is not None and link.node.id in self._offered:
                if not link.visited:
                    self._hand = link
                    return link.node
                link.visited = False
            link = link.newer

    def _forget(self, node: Node, evicted: bool) -> None:
        del evicted
        link = self._links.pop(node.id)
        link.older.newer, link.newer.older = link.newer, link.older
        if self._hand is link:
            self._hand = link.newer
