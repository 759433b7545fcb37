"""ARC: recency against frequency, balanced by what was evicted too early (Megiddo and Modha, FAST 2003)."""

from __future__ import annotations

from ragcache.policy.ghost import GhostList
from ragcache.policy.queues import QueuePolicy
from ragcache.policy.recency import RecencyList
from ragcache.tree.tree import Node


class ARC(QueuePolicy):
    """T1 holds what was used once, T2 what was used again, B1 and B2 the ghosts of their evicted nodes.

    The paper's pages are tokens here, of which a node has several: the target `p` of T1 moves by as many as the ghost
    that returned has, times the paper's ratio. Where the list that should give is all held, the other gives.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._p = 0.0
        self._t1, self._t2 = RecencyList(), RecencyList()
        self._b1, self._b2 = GhostList(), GhostList()
        self._returned: set[int] = set()  # ghosts of this request, which enter T2
        self._from_b2 = False  # whether room is made for a ghost of B2

    def missed(self, path_key: int, size: int) -> None:
        b1, b2 = self._b1, self._b2
        self._from_b2 = False
        if path_key in b1:
            # Case II: p = min(p + δ1, c), δ1 = 1 if |B1| ≥ |B2| else |B2| / |B1|
            self._p = min(self._p + size * max(1.0, b2.size / b1.size), self._capacity)
            b1.discard(path_key)
            self._returned.add(path_key)
        elif path_key in b2:
            # Case III: p = max(p − δ2, 0), δ2 = 1 if |B2| ≥ |B1| else |B1| / |B2|
            self._p = max(self._p - size * max(1.0, b1.size / b2.size), 0.0)
            b2.discard(path_key)
            self._returned.add(path_key)
            self._from_b2 = True

    def inserted(self, node: Node) -> None:
        if node.path_key in self._returned:
            self._returned.remove(node.path_key)
            self._t2.add(node)
            return
        self._t1.add(node)
        # Case IV: |T1| + |B1| ≤ c, and all four ≤ 2c. Cut after the newcomer came instead of before, with the same end
        self._b1.shrink(max(0, self._capacity - self._t1.size))
        self._b2.shrink(max(0, 2 * self._capacity - self._t1.size - self._t2.size - self._b1.size))

    def used(self, node: Node) -> None:
        # Case I: to the most recent end of T2
        if node in self._t1:
            self._t1.remove(node)
            self._t2.add(node)
        else:
            self._t2.touch(node)

    def _choose(self) -> Node:
        # REPLACE: from T1 if it is larger than p, or equal to it and a ghost of B2 returned; else from T2
        over = self._t1.size > self._p or (self._t1.size == self._p and self._from_b2)
        first, second = (self._t1, self._t2) if over else (self._t2, self._t1)
        node = first.oldest_in(self._offered) or second.oldest_in(self._offered)
        assert node is not None
        return node

    def _forget(self, node: Node, evicted: bool) -> None:
        recent = node in self._t1
        (self._t1 if recent else self._t2).remove(node)
        if evicted:
            (self._b1 if recent else self._b2).add(node.path_key, node.size)
