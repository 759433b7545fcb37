"""PoolOrder: vLLM's free blocks, in the order in which our policy gives up their nodes.

vLLM evicts free blocks from the front of a queue, least recently freed first. No block is kept from it here, so that
it never waits for one: those of our nodes are taken out of the queue and put back at its end, cheapest to lose first,
by `BlockPool.touch` and `BlockPool.unpin_blocks`. Blocks of no node (questions, answers) stay in front of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ragcache.engine.vllm.scheduler.device_blocks import Block, DeviceBlocks
from ragcache.tree.tree import DEVICE, Node

RENEWED_SHARE = 8  # the order is made anew once an eighth of the pool may have been taken since


class Pool(Protocol):
    """The part of vLLM's BlockPool that a connector may call."""

    num_gpu_blocks: int

    def touch(self, blocks: Sequence[Any]) -> None:
        """Takes blocks out of the queue of free ones, each held once more."""

    def unpin_blocks(self, blocks: Any, on_reuse: Callable[[Any], None]) -> None:
        """Puts blocks at the queue's end, held once less; `on_reuse` is called with each when it is taken."""

    def evict_blocks(self, block_ids: set[int]) -> None:
        """Forgets which tokens' KV these blocks hold, so that no request finds it."""

    def get_num_free_blocks(self) -> int:
        """Number of blocks that no request uses."""


class PoolOrder:
    """Which blocks hold which node. `on_lost` is called with a node once one of its blocks was reused."""

    def __init__(self, pool: Pool, on_lost: Callable[[Node], None]) -> None:
        self._pool = pool
        self._on_lost = on_lost
        self._owner: dict[int, Node] = {}  # by the block's id: the node that was last in it
        self._asked = 0  # blocks since the order was made
        self._changed = False

    def own(self, node: Node, kv: DeviceBlocks) -> None:
        """The node is in these blocks; any other node that was in one of them has lost it."""
        for block in kv.blocks:
            other = self._owner.get(block.block_id)
            if other is not None and other is not node:
                self._reused(block)
            self._owner[block.block_id] = node

    def changed(self) -> None:
        """Nodes were used, or blocks freed: the order may be another now."""
        self._changed = True

    def arrange(self, blocks: int, order: Callable[[], Sequence[Node]]) -> None:
        """Call before `blocks` blocks are taken: puts those first in the queue that the policy would give up first.

        `order` returns the nodes on the device that no request holds, first to lose first.
        """
        self._asked += blocks
        if not self._changed or self._asked * RENEWED_SHARE < self._pool.num_gpu_blocks:
            return
        self._changed = False
        self._asked = 0
        moved: list[Block] = []
        lost: list[Node] = []
        for node in order():
            kv: DeviceBlocks = node.kv
            if not kv.valid:  # reused before a callback was there for it
                lost.append(node)
                continue
            for block in reversed(kv.blocks):  # a node's last blocks are useless without its first
                if not block.ref_cnt:
                    moved.append(block)
        self._pool.touch(moved)
        self._pool.unpin_blocks(moved, self._reused)
        for node in lost:
            if node.places[DEVICE] is not None:  # else it went with an ancestor
                self._on_lost(node)

    def _reused(self, block: Block) -> None:
        node = self._owner.pop(block.block_id, None)
        if node is None:
            return
        kv: DeviceBlocks | None = node.kv
        if kv is not None and any(own is block for own in kv.blocks):
            self._on_lost(node)
