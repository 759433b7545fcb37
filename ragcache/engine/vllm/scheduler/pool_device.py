"""PoolDevice: the device tier where vLLM owns the memory.

vLLM allocates blocks, finds what it has itself, and takes free blocks back when it likes. So the device tier follows
what is there: nodes enter it once they are computed, and leave it when vLLM reuses one of their blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.tier import Balance
from ragcache.engine.vllm.scheduler.device_blocks import DeviceBlocks
from ragcache.engine.vllm.scheduler.pool_order import Pool, PoolOrder
from ragcache.tree.tree import DEVICE, Node, Place

NULL_BLOCKS = 1  # blocks of the pool that vLLM takes for itself


class PoolDevice:
    """Books the nodes in vLLM's pool. Without `follows` no node enters, and vLLM's own order is left alone."""

    def __init__(self, hierarchy: Hierarchy, pool: Pool, block_tokens: int, *, follows: bool) -> None:
        self._hierarchy = hierarchy
        self._device = hierarchy.device
        self._pool = pool
        self._block = block_tokens
        self._order = PoolOrder(pool, self._left) if follows else None

    def balance(self) -> Balance:
        """Bytes of the pool, one worker's share. Blocks in use are held, whatever they are used for."""
        booked = self._device.balance()
        block = booked.total // self._pool.num_gpu_blocks
        held = max(0, self._pool.num_gpu_blocks - NULL_BLOCKS - self._pool.get_num_free_blocks()) * block
        # a request that waits for its load has blocks of nodes that it does not hold yet
        cached = min(booked.cached, booked.total - held)
        return Balance(booked.total, booked.total - held - cached, cached, held)

    def make_room(self, tokens: int) -> None:
        """Call before vLLM takes blocks for `tokens` tokens: those that the policy would give up come first."""
        if self._order is not None:
            self._order.arrange(-(-tokens // self._block), self._device.eviction_order)

    def enter(self, node: Node, kv: DeviceBlocks) -> Place | None:
        """The node is computed in these blocks; returns its place, held once by the caller. None without `follows`."""
        if self._order is None:
            return None
        place = node.places[DEVICE]
        self._order.own(node, kv)
        if place is None:
            return self._device.enter(node, kv)
        place.copy = kv  # the request's own blocks, which are in use and so sure to hold it
        self._device.hold(node)
        self._device.policy.used(node)
        return place

    def freed(self) -> None:
        """A request has ended, and vLLM frees its blocks."""
        if self._order is not None:
            self._order.changed()

    def spoiled(self, blocks: set[int], tables: Iterable[Sequence[int]]) -> None:
        """Has vLLM forget `blocks`, whose loads failed. `tables`: the blocks of each running request, in order.

        No request is to find these blocks, nor those computed from them, before they are computed again; that may never
        happen, if their request is given up first.
        """
        wrong = set(blocks)
        for table in tables:
            first = next((place for place, block in enumerate(table) if block in blocks), len(table))
            wrong.update(table[first:])
        self._pool.evict_blocks(wrong)

    def clear(self) -> None:
        """Gives up all nodes that no request holds, on all tiers, and has vLLM forget those of their blocks that it
        would still find. vLLM itself forgets nothing while a request runs."""
        forgotten: set[int] = set()
        for node in reversed(list(self._hierarchy.tree.nodes())):  # children before parents
            kv: DeviceBlocks | None = node.kv
            self._hierarchy.drop(node)
            if kv is not None and node.places[DEVICE] is None and kv.valid:
                forgotten.update(block.block_id for block in kv.blocks)
        self._pool.evict_blocks(forgotten)

    def _left(self, node: Node) -> None:
        """vLLM has reused a block of the node: it is on the device no longer, nor is what stands on it."""
        below = [node]
        for lost in below:
            below.extend(child for child in lost.children.values() if child.places[DEVICE] is not None)
        for lost in reversed(below):
            self._device.evict(lost)
            if not any(lost.places):
                self._device.lose()
                self._hierarchy.forget(lost)
