"""WriteBehind: writes what lies in memory to disk, one record at a time, while no request waits for it.

Parents go before children, so that a process that starts from the disk alone can use every record. What leaves memory
before its turn is not written; it may come again with its next use.
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
    """The queue of nodes to be written to `disk`. It holds memory of one record at a time."""

    def __init__(self, hierarchy: Hierarchy, disk: Tier) -> None:
        self._hierarchy = hierarchy
        self._disk = disk
        self._queue: OrderedDict[int, Node] = OrderedDict()
        self._writing = False
        self._choosing = False
        self._failures = 0  # in a row
        self._pause = 0  # records to pass over

    def __len__(self) -> int:
        """Number of nodes that wait, or are being written."""
        return len(self._queue) + self._writing

    def add(self, nodes: Iterable[Node]) -> None:
        """Queues the nodes of a path, in its order, that are not on disk."""
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
        """The tier in memory that has the node complete: the host if it can be, which spares the device.

        Returns None if neither has it, as for a node that has left the tree.
        """
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
        parent_key = hierarchy.records.root_key(parent.label) if above is None else above.copy
        record = record_of(node, parent_key)
        self._writing = True

        def done(moved: Moved) -> None:
            self._writing = False
            hierarchy.moves.ended("to_disk", disk, node, moved)
            if node.places[DISK] is not place:  # given up meanwhile
                hierarchy.remove_records([record.key])
            elif moved.error is None:
                disk.fill(place, record.key)
                disk.release(node)
            else:
                disk.leave(node)
                if not any(node.places):  # a device that takes its memory back has done so
                    hierarchy.forget(node)
            hierarchy.release(held)
            self._learn(node, moved.error)
            self._advance()
            hierarchy.moves.tell_room()

        kv = DeviceKV(origin.copy) if source.index == DEVICE else HostKV(origin.copy)
        hierarchy.moves.writes.submit(lambda: hierarchy.records.write(record, kv), done)

    def _learn(self, node: Node, error: Exception | None) -> None:
        """Passes over records after a failure, twice as many each time, so that a failing disk is left alone."""
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
