"""Hierarchy: the knowledge tree over device, host and disk, and how KV moves between them.

Who frees and who fills: evicting from the device hands the KV to a move, which copies it to the host unless a copy is
there (swap out once) and then lets go of it. A load gives a node its place on the device at once, and the KV when it
arrives. Nothing here waits, and whatever fails is a copy less, never a wrong one: a node whose last copy goes takes
its descendants along, for without it they are useless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ragcache.cache.interface import DiskTier, HostTier
from ragcache.cache.mover import InlineMover, Moved, Mover
from ragcache.cache.tier import IntegrityError, Tier
from ragcache.errors import RagCacheError
from ragcache.policy import Policy
from ragcache.storage.interface import HostReader, HostStore, RecordReader, RecordStore
from ragcache.tree.segment import Segment
from ragcache.tree.tree import DEVICE, DISK, HOST, KnowledgeTree, Node, Place

MAX_PENDING_COPIES = 256  # swap-outs beyond are not made: the KV is dropped rather than anybody kept waiting
KEPT_SHARE = 8  # an eighth of the host is for copies of hot upper nodes that the device has as well
AUDITED_AT_ONCE = 256  # nodes, a millisecond or so
DIRECTIONS = ("device_to_host", "host_to_device", "to_disk", "from_disk")  # of moves
HOT_USES = 4  # a node is hot from so many uses on, and an upper one with two children or more


@dataclass(slots=True)
class MoveCounts:
    """Totals of moves in one direction: how many, their bytes on the slower tier, and the seconds they took."""

    moves: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Arrival:
    """KV on its way. `value` is there for moves queued behind this one as soon as the mover is done with it."""

    value: Any = None
    finished: bool = False
    callbacks: list[Callable[[], None]] = field(default_factory=list)

    def finish(self) -> None:
        self.finished = True
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


Held = list[tuple[Tier, Node, Place]]


class Hierarchy:
    """Tree and tiers. `on_lost` is told of a node that cannot be loaded, before it leaves the tree: who counted on it
    lets go of it and of everything below. `on_room` is told when a move has ended that held memory, `on_moved` how
    each move ended: what it was, the slower tier, and the error if it failed."""

    def __init__(
        self,
        capacity: int,
        bytes_per_token: int,
        policy: Policy,
        host: HostTier[HostStore] | None = None,
        disk: DiskTier[RecordStore] | None = None,
        *,
        host_reader: HostReader | None = None,
        record_reader: RecordReader | None = None,
        contested: bool = False,
        inclusive: bool = False,
        copies: Mover | None = None,
        writes: Mover | None = None,
        reads: Mover | None = None,
    ) -> None:
        """`inclusive`: see Tier. Without readers nothing can be fetched to the device."""
        self.tree = KnowledgeTree(3 if disk else 2 if host else 1)
        self.device = Tier(DEVICE, capacity, policy, lambda node: node.size * bytes_per_token)
        self._host_reader = host_reader
        self._record_reader = record_reader
        self.host: Tier | None = None
        self.disk: Tier | None = None
        if host is not None:
            stored = host.bytes_per_token
            self.host = Tier(HOST, host.capacity, host.policy, lambda node: node.size * stored, inclusive=inclusive)
            self._host_store = host.store
        if disk is not None:
            footprint = disk.store.footprint
            self.disk = Tier(DISK, disk.capacity, disk.policy, lambda node: footprint(node.size))
            self.records = disk.store
        self.lower = [tier for tier in (self.host, self.disk) if tier is not None]
        self.on_lost: Callable[[Node], None] = lambda _: None
        self.on_room: Callable[[], None] = lambda: None
        self.on_moved: Callable[[str, Tier, Exception | None], None] = lambda *_: None
        self.moves = {direction: MoveCounts() for direction in DIRECTIONS}
        self._contested = contested
        self.copies: Mover = copies or InlineMover()
        self.writes: Mover = writes or InlineMover()
        self.reads: Mover = reads or InlineMover()
        self._swapping_out: list[Arrival] = []
        self._strays: list[Arrival] = []

    @property
    def moving(self) -> int:
        """Moves that are not done."""
        return self.copies.pending + self.writes.pending + self.reads.pending

    def tiers(self) -> list[Tier]:
        return [self.device, *self.lower]

    @property
    def swapping_out(self) -> list[Arrival]:
        """Moves whose device memory counts as free, and is not until they end: who fills memory waits for them."""
        if self._swapping_out:
            self._swapping_out = [arrival for arrival in self._swapping_out if not arrival.finished]
        return self._swapping_out

    @property
    def has_strays(self) -> bool:
        """Whether KV is on its way to the device that nobody can use, an ancestor of it having failed to load. It takes
        memory that counts as free, and there is nothing to wait for but its end."""
        if self._strays:
            self._strays = [arrival for arrival in self._strays if not arrival.finished]
        return bool(self._strays)

    def evict(self, node: Node, *, evicted: bool = True) -> None:
        """A leaf of the device that nobody holds leaves it, to the host if there is one. See `swapping_out`.

        `evicted` is what the device's policy is told.
        """
        kv = self.device.leave(node, evicted=evicted).copy
        if evicted:
            self.device.counts.evictions += 1
        if self.host is not None:
            if node.places[HOST] is not None:
                self.host.mirrored(node)
                return
            arrival = self.copy_to_host(node, kv)
            if arrival is not None:
                self._swapping_out.append(arrival)
                return
        if not any(node.places):
            self.device.counts.losses += 1
            self.forget(node)

    def expect(self, node: Node) -> None:
        """The node gets a place on the device, held once by the caller, who has made room and fetches it next."""
        self.device.enter(node).arrival = Arrival()

    def fetch(self, node: Node) -> None:
        """Starts to bring an expected node to the device, where its ancestors have places.

        The move holds it there, with its ancestors, until it has arrived.
        """
        place = node.places[DEVICE]
        assert place is not None
        self._load(node, place, self.hold(node))

    def keep_upper(self, path: Sequence[Node]) -> None:
        """Keeps host copies of the hot upper nodes of a path, so that losing the device does not lose them."""
        host = self.host
        if host is None:
            return
        for node in path:
            if node.frequency < HOT_USES or len(node.children) < 2:
                return
            if host.keeps(node):
                continue
            if node.kv is None or host.kept_bytes + host.footprint(node) > host.capacity // KEPT_SHARE:
                return
            if node.places[HOST] is None:
                held = self.hold(node)
                if self.copy_to_host(node, node.kv, held) is None:
                    self.release(held)
                    return
            if node.places[HOST] is not None:  # not failed at once
                host.keep(node)

    def restore(self) -> tuple[int, int]:
        """Takes in what an earlier process left on disk; returns how many nodes that were, and their highest last use.

        What does not fit, or hangs on nothing that is here, is removed from the disk.
        """
        disk, tree, store = self.disk, self.tree, self.records
        assert disk is not None
        known: dict[bytes, Node] = {}
        left_out = []
        last_use = 0
        for record in store.records():  # parents before children
            parent = known.get(record.parent)
            if parent is None and record.parent == store.root_key(record.namespace):
                parent = tree.root(record.namespace)
            segment = Segment.of(record.label, record.tokens)
            size = store.footprint(len(segment))
            if parent is None or segment.key in parent.children or size > disk.free:
                left_out.append(record.key)
                continue
            node = known[record.key] = tree.insert(parent, segment)
            node.frequency, node.last_use = record.frequency, record.last_use
            node.misses, node.seconds_per_token = record.misses, record.seconds_per_token
            last_use = max(last_use, record.last_use)
            disk.enter(node, record.key)
            disk.release(node)
        self.remove_records(left_out)
        return len(known), last_use

    def forget(self, node: Node) -> None:
        """A node that is on no tier leaves the tree, with all that stands on it."""
        removed: list[bytes] = []
        stack, order = [node], []
        while stack:
            at = stack.pop()
            order.append(at)
            stack.extend(at.children.values())
        for at in reversed(order):  # children before parents
            for tier in self.tiers():
                if at.places[tier.index] is not None:
                    tier.counts.orphans += 1
                    place = tier.leave(at, evicted=False)
                    if tier is self.disk and place.copy is not None:
                        removed.append(place.copy)
                    if tier is self.device and place.arrival is not None:
                        self._strays.append(place.arrival)
            self.tree.remove(at)
        self.remove_records(removed)

    def drop(self, node: Node) -> int:
        """Gives up every copy that nobody holds of a node without children; returns their bytes."""
        size = 0
        if node.children:
            return size
        removed: list[bytes] = []
        for tier in self.tiers():
            place = node.places[tier.index]
            if place is not None and not place.holders:
                tier.leave(node, evicted=False)
                tier.counts.cleared += 1
                size += tier.footprint(node)
                if tier is self.disk:
                    removed.append(place.copy)
        self.remove_records(removed)
        if any(node.places):
            if self.host is not None:
                self.host.mirrored(node)
        else:
            self.tree.remove(node)
        return size

    def close(self) -> None:
        """Finishes the moves that are under way."""
        for mover in (self.reads, self.copies, self.writes):
            mover.close()

    def copy_to_host(self, node: Node, kv: Any, held: Held | None = None) -> Arrival | None:
        """Starts to copy device KV to the host; None if the host does not take it. `held` ends with the move."""
        host = self.host
        assert host is not None
        if self.copies.pending >= MAX_PENDING_COPIES:
            host.counts.failures["busy"] += 1
            return None
        place = self.admit(host, node)
        if place is None:
            return None
        arrival = place.arrival = Arrival()

        def work() -> None:
            nonlocal kv
            try:
                arrival.value = self._host_store.put(kv)
            finally:
                kv = None  # now, for the next move may need the memory

        def done(moved: Moved) -> None:
            self.release(held or [])
            self.count("device_to_host", host, node, moved)
            if node.places[HOST] is place:
                place.arrival = None
                if moved.error is None:
                    place.copy = arrival.value
                    host.release(node)
                    host.mirrored(node)
                else:
                    host.leave(node, evicted=False)
                    if not any(node.places):
                        self.device.counts.losses += 1
                        self.forget(node)
            arrival.finish()
            self.on_room()

        self.copies.submit(work, done)
        return arrival

    def admit(self, tier: Tier, node: Node) -> Place | None:
        """A place on a lower tier, held once; None if there is no room, or the policy prefers those who are there."""
        size = tier.footprint(node)
        if size > tier.unheld_limit:
            tier.counts.failures["full"] += 1
            return None
        if not self._contested:
            while tier.free < size:
                try:
                    victim = tier.victim()
                except LookupError:  # the rest stands below what is held
                    tier.counts.failures["full"] += 1
                    return None
                self.evict_below(tier, victim)
            return tier.enter(node)
        place = tier.enter(node)
        tier.release(node)
        while tier.free < 0:
            victims, loser = tier.contest(-tier.free, (node,))
            if loser is not None or not victims:
                tier.leave(node, evicted=False)
                tier.counts.insertions -= 1
                tier.counts.rejections += 1
                return None
            for victim in victims:
                self.evict_below(tier, victim)
        tier.hold(node)
        return place

    def evict_below(self, tier: Tier, node: Node) -> None:
        mirror = tier.is_mirror(node)
        copy = tier.leave(node, evicted=not mirror).copy
        if mirror:
            tier.counts.mirrors += 1
        else:
            tier.counts.evictions += 1
        if tier is self.disk:
            self.remove_records([copy])
        if not any(node.places):
            tier.counts.losses += 1
            self.forget(node)

    def _load(self, node: Node, place: Place, held: Held) -> None:
        """Copies a node to its place on the device, from the fastest tier that has it."""
        source = self.host if self.host is not None and node.places[HOST] is not None else self.disk
        assert source is not None
        origin = node.places[source.index]
        assert origin is not None
        source.hold(node)
        if source is self.host:
            copy, coming, host_reader = origin.copy, origin.arrival, self._host_reader
            assert host_reader is not None

            def load() -> Any:
                found = copy if coming is None else coming.value
                if found is None:
                    raise RagCacheError("what was to be loaded never arrived")
                return host_reader.load(found)

            def done(moved: Moved) -> None:
                self.count("host_to_device", source, node, moved)
                self._loaded(node, place, source, origin, held, moved)

            self.copies.submit(load, done)
            return

        key, records = origin.copy, self._record_reader
        assert records is not None

        def landed(moved: Moved) -> None:
            self._tell("land", source, moved)  # what was read is counted already
            self._loaded(node, place, source, origin, held, moved)

        def read(moved: Moved) -> None:
            given_up = node.places[DISK] is not origin
            # that a record is not there once the cache removed it, while its read waited, is no failure of the disk
            if moved.error is None or not given_up or reason_of(moved.error) != "missing":
                self.count("from_disk", source, node, moved)
            if moved.error is not None:
                self._loaded(node, place, source, origin, held, moved)
                return
            staged = [moved.value]
            # in turn behind the swap-outs that make room on the device
            self.copies.submit(lambda: records.land(staged.pop()), landed)

        self.reads.submit(lambda: records.read(key, node.size), read)

    def _loaded(self, node: Node, place: Place, source: Tier, origin: Place, held: Held, moved: Moved) -> None:
        still = node.places[source.index] is origin
        if still:
            source.release(node)
        wanted = node.places[DEVICE] is place
        if moved.error is not None and still:  # a copy that cannot be read is none
            source.leave(node, evicted=False)
            if source is self.disk:
                self.remove_records([origin.copy])
            if not any(node.places):
                self.forget(node)
        if moved.error is not None and wanted and any(node.places[tier.index] for tier in self.lower):
            self._load(node, place, held)
            return
        arrival = place.arrival
        assert arrival is not None
        if wanted:
            place.arrival = None
            if moved.error is None:
                place.copy = moved.value
                self.release(held)
                if self.host is not None:
                    self.host.mirrored(node)
            else:
                self.on_lost(node)
                self.release(held)
                self.device.leave(node, evicted=False)
                self.device.counts.insertions -= 1
                self.forget(node)
        else:
            self.release(held)
        arrival.finish()
        self.on_room()

    def remove_records(self, keys: list[bytes]) -> None:
        if keys:

            def done(moved: Moved) -> None:
                if self.disk is not None:
                    self._tell("remove", self.disk, moved)

            self.writes.submit(lambda: self.records.remove(keys), done)

    def hold(self, node: Node) -> Held:
        """Holds a node of the device and its ancestors there: what moves keep, they keep as leases do."""
        held: Held = []
        at: Node | None = node
        while at is not None and not at.is_root:
            place = at.places[DEVICE]
            assert place is not None
            self.device.hold(at)
            held.append((self.device, at, place))
            at = at.parent
        return held

    def release(self, held: Held) -> None:
        for tier, node, place in held:  # children before parents
            if node.places[tier.index] is place:  # else it was given up, and its holders with it
                tier.release(node)

    def count(self, direction: str, tier: Tier, node: Node, moved: Moved) -> None:
        self._tell(direction, tier, moved)
        if moved.error is not None:
            return
        counts = self.moves[direction]
        counts.moves += 1
        counts.bytes += tier.footprint(node)
        counts.seconds += moved.seconds

    def _tell(self, what: str, tier: Tier, moved: Moved) -> None:
        if moved.error is not None:
            tier.counts.failures[reason_of(moved.error)] += 1
        self.on_moved(what, tier, moved.error)

    def audit(self, leases: dict[int, int]) -> Iterator[None]:
        """Recounts tree and tiers; `leases` says how many leases hold each node, by id. IntegrityError if not right.

        Pauses now and then, so that others may act; once they have, it is to be given up.
        """
        settled = not self.moving
        tiers = self.tiers()
        books = {tier.index: [0, 0, 0] for tier in tiers}
        count = 0
        for node in self.tree.nodes():
            count += 1
            parent = node.parent
            if parent is None or parent.children.get(node.key) is not node:
                raise IntegrityError(f"node {node.id} ({node.label!r}) is not its parent's child")
            if not any(node.places):
                raise IntegrityError(f"node {node.id} ({node.label!r}) is in the tree without KV")
            if not parent.is_root:
                if node.places[DEVICE] is not None and parent.places[DEVICE] is None:
                    raise IntegrityError(f"node {node.id} ({node.label!r}) is on the device without its parent")
                if node.holders and not parent.holders:
                    raise IntegrityError(f"node {node.id} ({node.label!r}) is held alone")
            for tier in tiers:
                if node.places[tier.index] is not None:
                    size = tier.audit(node, leases.get(node.id, 0) if tier is self.device else 0, settled=settled)
                    book = books[tier.index]
                    book[size < 0] += abs(size)
                    book[2] += 1
            if count % AUDITED_AT_ONCE == 0:
                yield
        if count != len(self.tree):
            raise IntegrityError(f"{count} nodes are in the tree, the books say {len(self.tree)}")
        for tier in tiers:
            tier.audit_books(*books[tier.index])


def reason_of(error: Exception) -> str:
    """A short word for the statistics."""
    return str(getattr(error, "reason", type(error).__name__))
