"""DeviceBlocks: a node's KV in vLLM's pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ragcache.errors import RecordError


class Block(Protocol):
    """The part of vLLM's KVCacheBlock that is read here. `block_hash` names the tokens whose KV the block holds."""

    block_id: int
    ref_cnt: int
    block_hash: Any


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBlocks:
    """The blocks that hold a node's KV, in order, and the hashes that they have until other KV is written to them."""

    blocks: Sequence[Block]
    hashes: Sequence[Any]

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> DeviceBlocks:
        """DeviceBlocks of `blocks`, which must stay under the hashes they have now to count as valid."""
        return cls(blocks, [block.block_hash for block in blocks])

    @property
    def valid(self) -> bool:
        """Whether all of them hold that KV still."""
        return all(block.block_hash == known for block, known in zip(self.blocks, self.hashes, strict=True))

    def checked(self) -> tuple[int, ...]:
        """Ids of the blocks; RecordError "missing" if they hold other KV by now."""
        if not self.valid:
            raise RecordError("the blocks to copy hold another request's KV by now", reason="missing")
        return tuple(block.block_id for block in self.blocks)
