"""KVSpan: the keys and values of a run of consecutive tokens, in memory of ours."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Shape of a model's KV: per token and layer, a key and a value of `head_dim` for each of `kv_heads`."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return self.layers * 2 * self.kv_heads * self.head_dim * self.dtype.itemsize

    def allocate(self, tokens: int, device: torch.device) -> KVSpan:
        """An empty span with room for `tokens`. The memory is untouched until tokens are written."""
        shape = (self.layers, 2, self.kv_heads, tokens, self.head_dim)
        return KVSpan(torch.empty(shape, dtype=self.dtype, device=device))


@dataclass(slots=True, eq=False)
class KVSpan:
    """KV of `length` tokens, `data` [layers, 2, kv_heads, capacity, head_dim].

    One tensor a span, so that a document moves between tiers in one copy. Spans are read where they lie: a
    sequence is a list of them, and no step copies what another has written. Only the engine writes, and only
    behind `length`; once a span is full it belongs to whoever holds its node and never changes.
    """

    data: torch.Tensor
    length: int = field(default=0)

    @property
    def capacity(self) -> int:
        return self.data.shape[3]

    @property
    def room(self) -> int:
        return self.capacity - self.length

    def keys(self, layer: int, length: int) -> torch.Tensor:
        """[1, kv_heads, length, head_dim], a view."""
        return self.data[layer, 0, :, :length].unsqueeze(0)

    def values(self, layer: int, length: int) -> torch.Tensor:
        """[1, kv_heads, length, head_dim], a view."""
        return self.data[layer, 1, :, :length].unsqueeze(0)
