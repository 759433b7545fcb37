"""WriteBehind: what lies in memory goes to disk, one record at a time, when nobody waits for it.

Parents before children, so that every record on disk can be used by whoever starts from the disk alone. What leaves
memory before its turn is not on disk; it may come again with its next use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.mover import Moved
from ragcache.cache.records import record_of
from ragcache.cache.tier import Tier
from ragcache.storage.interface import DeviceKV, HostKV
from ragcache.tree.tree import DEVICE, DISK, Node

LONGEST_PAUSE = 1024  # records passed over after failures in a row, at most


class WriteBehind:
    """The queue of nodes to be written. One record is under way at a time, and so is what memory it holds."""

    def __init__(self, hierarchy: Hierarchy, disk: Tier) -> None:
        self._hierarchy = hierarchy
        self._disk = disk
        self._queue: OrderedDict[int, Node] = OrderedDict()
        self._root_keys: dict[str, bytes] = {}
        self._writing = False
        self._choosing = False
        self._failures = 0  # in a row
        self._pause = 0  # records to pass over

    def __len__(self) -> int:
        """How many nodes wait, or are being written."""
        return len(self._queue) + self._writing

    def add(self, nodes: Iterable[Node]) -> None:
        """Those of a path, in its order, that are not on disk shall be."""
        for node in nodes:
            if node.places[DISK] is None:
                self._queue.setdefault(node.id, node)
        self._advance()

    def _advance(self) -> None:
        if self._choosing:
            return
        self._choosing = True
        while self._queue and not self._writing:
            node = self._queue.popitem(last=False)[1]
            source = self._memory_of(node)
            if source is None or not self._is_next(node):
                continue
            if self._pause:
                self._pause -= 1
            else:
                self._write(node, source)
        self._choosing = False

    def _is_next(self, node: Node) -> bool:
        """Whether the node is not on disk and its parent is."""
        parent = node.parent
        if parent is None or node.places[DISK] is not None:
            return False
        if parent.is_root:
            return True
        above = parent.places[DISK]
        return above is not None and above.copy is not None

    def _memory_of(self, node: Node) -> Tier | None:
        """The tier in memory that has the node complete, which says that it is still in the tree; the host first, for
        that spares the device."""
        for tier in (self._hierarchy.host, self._hierarchy.device):
            if tier is not None:
                place = node.places[tier.index]
                if place is not None and place.copy is not None:
                    return tier
        return None

    def _write(self, node: Node, source: Tier) -> None:
        hierarchy, disk, parent, origin = self._hierarchy, self._disk, node.parent, node.places[source.index]
        assert parent is not None
        assert origin is not None
        if source.index == DEVICE:
            held = hierarchy.hold(node)
        else:
            source.hold(node)
            held = [(source, node, origin)]
        above = parent.places[DISK]
        if above is not None:  # a leaf so far: it must not make room for its own child
            disk.hold(parent)
        place = hierarchy.admit(disk, node)
        if above is not None:
            disk.release(parent)
        if place is None:
            hierarchy.release(held)
            return
        parent_key = self._root_key(parent.label) if above is None else above.copy
        record = record_of(node, parent_key)
        self._writing = True

        def done(moved: Moved) -> None:
            self._writing = False
            hierarchy.count("to_disk", disk, node, moved)
            if node.places[DISK] is not place:  # given up meanwhile
                hierarchy.remove_records([record.key])
            elif moved.error is None:
                place.copy = record.key
                disk.release(node)
            else:
                disk.leave(node, evicted=False)
                disk.counts.insertions -= 1
                if not any(node.places):  # a device that takes its memory back has done so
                    hierarchy.forget(node)
            hierarchy.release(held)
            self._learn(node, moved.error)
            self._advance()
            hierarchy.on_room()

        kv = DeviceKV(origin.copy) if source.index == DEVICE else HostKV(origin.copy)
        hierarchy.writes.submit(lambda: hierarchy.records.write(record, kv), done)

    def _learn(self, node: Node, error: Exception | None) -> None:
        """After a failure, records are passed over, twice as many each time: a disk that is ill is not asked on."""
        if error is None:
            self._failures = 0
            return
        self._failures += 1
        self._pause = min(2 ** (self._failures - 1) - 1, LONGEST_PAUSE)
        if getattr(error, "reason", "") == "full":  # pages that are freed can be written anew
            self._make_room(2 * self._disk.footprint(node))

    def _make_room(self, size: int) -> None:
        while size > 0:
            try:
                victim = self._disk.victim()
            except LookupError:
                return
            size -= self._disk.footprint(victim)
            self._hierarchy.evict_below(self._disk, victim)

    def _root_key(self, namespace: str) -> bytes:
        key = self._root_keys.get(namespace)
        if key is None:
            key = self._root_keys[namespace] = self._hierarchy.records.root_key(namespace)
        return key
