"""Loads: KV that comes back to the device, from the host or, read and checked, from a record on disk.

A load gives a node its place on the device at once, and the KV when it arrives. What fails is a copy less, never a
wrong one: the next slower tier is tried, and a node that no tier can give is lost with all its descendants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ragcache.cache.hierarchy import Held, Hierarchy
from ragcache.cache.mover import Moved
from ragcache.cache.moves import Arrival
from ragcache.cache.tier import Tier
from ragcache.errors import RagCacheError, reason_of
from ragcache.storage.interface import HostReader, RecordReader
from ragcache.tree.tree import DEVICE, DISK, HOST, Node, Place


class Loads:
    """Brings nodes of a hierarchy to the device; a reader for each tier below.

    `on_lost` is called with a node that no tier can give, before it leaves the tree: its holders let go of it and of
    everything below.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        host_reader: HostReader | None,
        record_reader: RecordReader | None,
        on_lost: Callable[[Node], None],
    ) -> None:
        self._hierarchy = hierarchy
        self._host_reader = host_reader
        self._record_reader = record_reader
        self._on_lost = on_lost

    def expect(self, node: Node) -> None:
        """Gives the node a place on the device, held once by the caller, who has made room and calls `fetch` next."""
        self._hierarchy.device.enter(node).arrival = Arrival()

    def fetch(self, node: Node) -> None:
        """Starts to bring an expected node to the device, where its ancestors have places.

        The move holds it there, with its ancestors, until it has ended.
        """
        place = node.places[DEVICE]
        assert place is not None
        self._load(node, place, self._hierarchy.hold(node))

    def _load(self, node: Node, place: Place, held: Held) -> None:
        """Moves a node to its place on the device, from the fastest tier below that has it."""
        hierarchy = self._hierarchy
        source = hierarchy.host if hierarchy.host is not None and node.places[HOST] is not None else hierarchy.disk
        assert source is not None
        origin = node.places[source.index]
        assert origin is not None
        source.hold(node)

        def ended(moved: Moved) -> None:
            self._ended(node, place, source, origin, held, moved)

        if source is hierarchy.host:
            self._copy(node, source, origin, ended)
        else:
            self._read(node, source, origin, ended)

    def _copy(self, node: Node, host: Tier, origin: Place, ended: Callable[[Moved], None]) -> None:
        """Copies a node's KV from the host, or from where a copy to the host is under way."""
        reader, moves = self._host_reader, self._hierarchy.moves
        assert reader is not None
        copy, coming = origin.copy, origin.arrival

        def load() -> Any:
            in_host_memory = copy if coming is None else coming.value
            if in_host_memory is None:
                raise RagCacheError("what was to be loaded never arrived")
            return reader.load(in_host_memory)

        def done(moved: Moved) -> None:
            moves.ended("host_to_device", host, node, moved)
            ended(moved)

        moves.copies.submit(load, done)

    def _read(self, node: Node, disk: Tier, origin: Place, ended: Callable[[Moved], None]) -> None:
        """Reads a node's record, then lands it on the device, in turn behind the swap-outs that make room there."""
        reader, moves, key = self._record_reader, self._hierarchy.moves, origin.copy
        assert reader is not None

        def landed(moved: Moved) -> None:
            moves.step_ended("land", disk, moved)  # the move is booked already
            ended(moved)

        def read(moved: Moved) -> None:
            given_up = node.places[DISK] is not origin
            # a record that the cache removed while its read waited is missing, but the disk has not failed
            if moved.error is None or not given_up or reason_of(moved.error) != "missing":
                moves.ended("from_disk", disk, node, moved)
            if moved.error is not None:
                ended(moved)
                return
            read_kv = [moved.value]  # popped, so that the host copy ends with its landing
            moves.copies.submit(lambda: reader.land(read_kv.pop()), landed)

        moves.reads.submit(lambda: reader.read(key, node.size), read)

    def _ended(self, node: Node, place: Place, source: Tier, origin: Place, held: Held, moved: Moved) -> None:
        """A load from `origin` on `source` to `place` has ended, while either may have been given up."""
        hierarchy = self._hierarchy
        if node.places[source.index] is origin:
            source.release(node)
            if moved.error is not None:  # a copy that cannot be read is none
                hierarchy.discard(source, node)
        wanted = node.places[DEVICE] is place
        if moved.error is not None and wanted and any(node.places[tier.index] for tier in hierarchy.lower):
            self._load(node, place, held)
            return
        arrival = place.arrival
        assert arrival is not None
        if not wanted:
            hierarchy.release(held)
        elif moved.error is None:
            hierarchy.device.fill(place, moved.value)
            hierarchy.release(held)
            if hierarchy.host is not None:
                hierarchy.host.mirrored(node)
        else:
            self._on_lost(node)
            hierarchy.release(held)
            hierarchy.device.leave(node)
            hierarchy.forget(node)
        arrival.finish()
        hierarchy.moves.tell_room()
