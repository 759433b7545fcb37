"""LateWrites: what requests leave to be written to disk, in the order of their paths."""

from __future__ import annotations

from collections.abc import Sequence

from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.records import learned
from ragcache.cache.tier import Tier
from ragcache.cache.write_behind import WriteBehind
from ragcache.engine.vllm.scheduler.remote_stores import RemoteRecords
from ragcache.tree.tree import DISK, HOST, Node

LEARNED_AT_ONCE = 256  # nodes


class LateWrites:
    """A WriteBehind for nodes whose host copies are still on their way, and for what was learned of nodes on disk."""

    def __init__(self, hierarchy: Hierarchy, disk: Tier, records: RemoteRecords) -> None:
        self._has_host = hierarchy.host is not None
        self._records = records
        self._behind = WriteBehind(hierarchy, disk)
        self._late: list[Node] = []
        self._unlearned: dict[int, Node] = {}  # by the node's id

    def __len__(self) -> int:
        """Number of nodes that wait, or are being written."""
        return len(self._behind) + len(self._late)

    def add(self, path: Sequence[Node]) -> None:
        """A request has used these nodes of a path. Those that are not on disk are to be written."""
        alive = [node for node in path if any(node.places)]
        self._unlearned.update((node.id, node) for node in alive if node.places[DISK] is not None)
        self._late.extend(node for node in alive if node.places[DISK] is None)
        self.advance()
        if len(self._unlearned) >= LEARNED_AT_ONCE:
            self.learn()

    def advance(self) -> None:
        """A move has ended, or nodes were added: passes on those whose host copies are there, or will not come."""
        late, self._late = self._late, []
        for node in late:
            place = node.places[HOST] if self._has_host else None
            if place is not None and place.copy is None:
                self._late.append(node)
            elif any(node.places):
                self._behind.add([node])

    def learn(self) -> None:
        """Has written down what was learned of nodes on disk since the last call."""
        stats = learned(self._unlearned.values())
        self._unlearned.clear()
        if stats:
            self._records.learn(stats)
