"""Hierarchy: the knowledge tree over device, host and disk: which node lies where, and what makes room for it.

Evicting from the device hands the KV to a move, which copies it to the host unless a copy is there (swap out once) and
then lets go of it. Nothing here waits, and whatever fails is a copy less, never a wrong one: a node whose last copy
goes takes its descendants along, for without it they are useless.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ragcache.cache.interface import DiskTier, HostTier
from ragcache.cache.mover import Moved, Mover
from ragcache.cache.moves import Arrival, Moves
from ragcache.cache.tier import Tier
from ragcache.errors import IntegrityError
from ragcache.policy import Policy
from ragcache.storage.interface import HostStore, RecordStore
from ragcache.tree.tree import DEVICE, DISK, HOST, KnowledgeTree, Node, Place

MAX_PENDING_COPIES = 256  # swap-outs beyond are not made: losing the KV costs less than keeping requests waiting
KEPT_SHARE = 8  # an eighth of the host is for copies of hot upper nodes that the device has as well
HOT_USES = 4  # a node is hot from this many uses on, and an upper one with two children or more

Held = list[tuple[Tier, Node, Place]]  # places that a move or a request holds, children before parents


class Hierarchy:
    """The tree, its tiers (`lower` are those below the device, fastest first) and the `moves` between them."""

    def __init__(
        self,
        capacity: int,
        bytes_per_token: int,
        policy: Policy,
        host: HostTier[HostStore] | None = None,
        disk: DiskTier[RecordStore] | None = None,
        *,
        contested: bool = False,
        inclusive: bool = False,
        copies: Mover | None = None,
        writes: Mover | None = None,
        reads: Mover | None = None,
    ) -> None:
        """`capacity` is the device's, in bytes, and `policy` its own. With `contested` a newcomer to a lower tier has
        to win against what is there. `inclusive`: see Tier. Movers: see Moves."""
        self.tree = KnowledgeTree(3 if disk else 2 if host else 1)
        self.moves = Moves(copies, writes, reads)
        self.device = Tier(DEVICE, capacity, policy, lambda node: node.size * bytes_per_token)
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
        self._tiers = [self.device, *self.lower]
        self._contested = contested

    def tiers(self) -> list[Tier]:
        """All tiers, fastest first."""
        return self._tiers

    # -- room on the device

    def make_room(self, size: int, needed_below: Sequence[Node]) -> None:
        """Evicts from the device until `size` bytes are free; see `Moves.swap_outs` for when they can be filled.

        `needed_below` are to be loaded, so that they must not be what makes room for others on their tier.
        IntegrityError if there is not that much to evict, which the caller has made sure of.
        """
        device = self.device
        if device.free >= size:
            return
        held = [(tier, node) for node in needed_below for tier in self.lower if node.places[tier.index] is not None]
        for tier, node in held:
            tier.hold(node)
        while device.free < size:
            try:
                victim = device.victim()
            except LookupError as error:
                raise IntegrityError(f"nothing to evict although {device.cached} bytes are cached") from error
            self.evict(victim)
        for tier, node in held:
            tier.release(node)

    def evict(self, node: Node, *, rejected: bool = False) -> None:
        """Evicts a leaf of the device that is not held; its KV goes to the host if there is one.

        `rejected`: the node is a newcomer that lost against what is there; its policy does not learn of the eviction.
        """
        kv = (self.device.reject(node) if rejected else self.device.evict(node)).copy
        if self.host is not None:
            if node.places[HOST] is not None:
                self.host.mirrored(node)
                return
            arrival = self.copy_to_host(node, kv)
            if arrival is not None:
                self.moves.add_swap_out(arrival)
                return
        if not any(node.places):
            self.device.lose()
            self.forget(node)

    def settle(self, newcomers: Collection[Node], limit: int) -> None:
        """Decides which nodes stay within `limit` bytes of the device: the newcomers, or what they would displace."""
        device = self.device
        while (excess := device.cached + device.held_nodes - limit) > 0:
            victims, loser = device.contest(excess, newcomers)
            if loser is not None:  # the others stay, and the clock with them
                self.evict(loser, rejected=True)
            elif victims:
                for victim in victims:
                    self.evict(victim)
            else:  # the rest is held: its memory is that of running requests until they end
                return

    def lose_device(self) -> int:
        """Takes all KV off the device that is not held; returns the number of nodes that have no copy left.

        What the host or the disk has stays, down to the first node of a path that is on neither.
        """
        before = len(self.tree)
        for node in reversed(list(self.tree.nodes())):  # children before parents
            place = node.places[DEVICE]
            if place is not None and not place.holders and not node.below[DEVICE]:
                self.device.leave(node)
                if not any(node.places):
                    self.forget(node)
                elif self.host is not None:
                    self.host.mirrored(node)
        return before - len(self.tree)

    # -- copies on the host

    def copy_to_host(self, node: Node, kv: Any, held: Held | None = None) -> Arrival | None:
        """Starts to copy device KV to the host, and releases `held` when that has ended.

        Returns None, with `held` the caller's still, if the host does not take the node.
        """
        host = self.host
        assert host is not None
        if self.moves.copies.pending >= MAX_PENDING_COPIES:
            host.fail("busy")
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
            self.moves.ended("device_to_host", host, node, moved)
            if node.places[HOST] is place:
                if moved.error is None:
                    host.fill(place, arrival.value)
                    host.release(node)
                    host.mirrored(node)
                else:
                    host.leave(node)
                    if not any(node.places):
                        self.device.lose()
                        self.forget(node)
            arrival.finish()
            self.moves.tell_room()

        self.moves.copies.submit(work, done)
        return arrival

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
            if node.places[HOST] is not None:  # it has not failed at once
                host.keep(node)

    # -- room below the device

    def admit(self, tier: Tier, node: Node) -> Place | None:
        """Gives a node a place on a lower tier, held once, for KV that comes next.

        Returns None if there is no room, or if the policy prefers what is there.
        """
        size = tier.footprint(node)
        if size > tier.unheld_limit:
            tier.fail("full")
            return None
        if not self._contested:
            while tier.free < size:
                try:
                    victim = tier.victim()
                except LookupError:  # the rest is held, or has children that are
                    tier.fail("full")
                    return None
                self.evict_below(tier, victim)
            return tier.enter(node)
        place = tier.enter(node)
        tier.release(node)
        while tier.free < 0:
            victims, loser = tier.contest(-tier.free, (node,))
            if loser is not None or not victims:
                tier.reject(node)
                return None
            for victim in victims:
                self.evict_below(tier, victim)
        tier.hold(node)
        return place

    def evict_below(self, tier: Tier, node: Node) -> None:
        """Evicts a leaf of a lower tier that is not held."""
        copy = tier.evict(node).copy
        if tier is self.disk:
            self.remove_records([copy])
        if not any(node.places):
            tier.lose()
            self.forget(node)

    def discard(self, tier: Tier, node: Node) -> None:
        """Gives up a copy on a lower tier that cannot be read, and the node if that was its last."""
        copy = tier.leave(node).copy
        if tier is self.disk:
            self.remove_records([copy])
        if not any(node.places):
            self.forget(node)

    # -- nodes that leave the tree

    def forget(self, node: Node) -> None:
        """Removes a node that is on no tier from the tree, with everything below it."""
        removed: list[bytes] = []
        stack, order = [node], []
        while stack:
            last = stack.pop()
            order.append(last)
            stack.extend(last.children.values())
        for orphan in reversed(order):  # children before parents
            for tier in self._tiers:
                if orphan.places[tier.index] is not None:
                    place = tier.orphan(orphan)
                    if tier is self.disk and place.copy is not None:
                        removed.append(place.copy)
                    if tier is self.device and place.arrival is not None:
                        self.moves.add_stray(place.arrival)
            self.tree.remove(orphan)
        self.remove_records(removed)

    def drop(self, node: Node) -> int:
        """Gives up every copy that is not held of a node without children; returns their bytes."""
        size = 0
        if node.children:
            return size
        removed: list[bytes] = []
        for tier in self._tiers:
            place = node.places[tier.index]
            if place is not None and not place.holders:
                tier.clear(node)
                size += tier.footprint(node)
                if tier is self.disk:
                    removed.append(place.copy)
        self.remove_records(removed)
        if not any(node.places):
            self.tree.remove(node)
        elif self.host is not None:
            self.host.mirrored(node)
        return size

    def remove_records(self, keys: list[bytes]) -> None:
        """Starts to remove records from the disk, behind the writes that are under way."""
        disk = self.disk
        if not keys or disk is None:
            return
        self.moves.writes.submit(
            lambda: self.records.remove(keys), lambda moved: self.moves.step_ended("remove", disk, moved)
        )

    # -- what moves hold

    def hold(self, node: Node) -> Held:
        """Holds a node of the device and its ancestors there, as a lease would, for a move."""
        held: Held = []
        ancestor: Node | None = node
        while ancestor is not None and not ancestor.is_root:
            place = ancestor.places[DEVICE]
            assert place is not None
            self.device.hold(ancestor)
            held.append((self.device, ancestor, place))
            ancestor = ancestor.parent
        return held

    def release(self, held: Held) -> None:
        """Ends what `hold` began, but for places that have been given up since, and their holders with them."""
        for tier, node, place in held:
            if node.places[tier.index] is place:
                tier.release(node)

    # -- conservation
