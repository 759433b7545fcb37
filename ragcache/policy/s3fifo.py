"""S3-FIFO: three queues, of which the small one filters what is asked for once (Yang et al., SOSP 2023)."""

from __future__ import annotations

from collections import OrderedDict

from ragcache.policy.ghost import GhostList
from ragcache.policy.queues import QueuePolicy
from ragcache.tree.tree import Node

_MOST = 3  # two bits of frequency
_SMALL_SHARE = 10  # the small queue has a tenth of the capacity


class S3FIFO(QueuePolicy):
    """S holds newcomers, M what was asked for again or came back from G, the ghosts of what left S.

    A node that is not offered goes back to the head of its queue with its frequency: others stand on it, or use it.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._small: OrderedDict[int, Node] = OrderedDict()  # tail first
        self._main: OrderedDict[int, Node] = OrderedDict()
        self._small_size = 0
        self._main_size = 0
        self._frequency: dict[int, int] = {}
        self._ghosts = GhostList()

    def missed(self, path_key: int, size: int) -> None:
        del path_key, size  # ghosts are asked when the node is there

    def inserted(self, node: Node) -> None:
        # INSERT: if x in G then to the head of M, else to the head of S; x.freq = 0
        if self._ghosts.discard(node.path_key):
            self._main[node.id] = node
            self._main_size += node.size
        else:
            self._small[node.id] = node
            self._small_size += node.size
        self._frequency[node.id] = 0

    def used(self, node: Node) -> None:
        # READ: x.freq = min(x.freq + 1, 3)
        self._frequency[node.id] = min(self._frequency[node.id] + 1, _MOST)

    def _choose(self) -> Node:
        # EVICT: if S.size ≥ 0.1 · cache size then EVICTS else EVICTM. Where one has nothing to give, the other gives
        if _SMALL_SHARE * self._small_size >= self._capacity:
            node = self._from_small() or self._from_main()
        else:
            node = self._from_main() or self._from_small()
        if node is None:  # S emptied itself into M
            node = self._from_main()
        assert node is not None
        return node

    def _from_small(self) -> Node | None:
        # EVICTS: t = tail of S; if t.freq > 1 it moves to M, else it is the victim
        for _ in range(len(self._small)):
            key = next(iter(self._small))
            if self._frequency[key] > 1:
                node = self._small.pop(key)
                self._small_size -= node.size
                self._main[key] = node
                self._main_size += node.size
                self._frequency[key] = 0
            elif key in self._offered:
                return self._small[key]
            else:
                self._small.move_to_end(key)
        return None

    def _from_main(self) -> Node | None:
        # EVICTM: t = tail of M; if t.freq > 0 it goes to the head of M with one less, else it is the victim
        for _ in range((_MOST + 1) * len(self._main)):
            key = next(iter(self._main))
            if key not in self._offered:
                self._main.move_to_end(key)
            elif self._frequency[key] > 0:
                self._frequency[key] -= 1
                self._main.move_to_end(key)
            else:
                return self._main[key]
        return None

    def _forget(self, node: Node, evicted: bool) -> None:
        del self._frequency[node.id]
        if node.id in self._small:
            del self._small[node.id]
            self._small_size -= node.size
            if evicted:
                # G has as many entries as M, counted in the sizes that they had
                self._ghosts.add(node.path_key, node.size)
                self._ghosts.shrink(self._capacity - self._capacity // _SMALL_SHARE)
        else:
            del self._main[node.id]
            self._main_size -= node.size
