"""KVSpan: the keys and values of consecutive tokens, in memory that this package allocates."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence
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
        """Bytes of a token's KV, all layers together."""
        return self.layers * 2 * self.kv_heads * self.head_dim * self.dtype.itemsize

    def allocate(self, tokens: int, device: torch.device) -> KVSpan:
        """An empty span with room for `tokens`. The memory is untouched until tokens are written."""
        if device.type != "cpu":
            return KVSpan(torch.empty(self.shape(tokens), dtype=self.dtype, device=device))
        return KVSpan(on_pages(self.shape(tokens), self.dtype))

    def shape(self, tokens: int) -> tuple[int, int, int, int, int]:
        """Shape of the one tensor that holds `tokens`: [layers, 2, kv_heads, tokens, head_dim]."""
        return self.layers, 2, self.kv_heads, tokens, self.head_dim


def on_pages(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of zeros in host memory of its own, untouched until written. Raises MemoryError if there is none."""
    try:
        pages = _pages(math.prod(shape) * dtype.itemsize)
    except OSError as error:
        raise MemoryError(f"no memory for KV of shape {tuple(shape)}: {error}") from error
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def _pages(size: int) -> mmap.mmap:
    """Zeroed memory straight from the system, which has it back with the last reference.

    From the C heap, spans of many sizes would leave holes: evicting frees them, and the process stays as large.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(-1, size)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


@dataclass(frozen=True, slots=True)
class LayerViews:
    """Keys and values of some tokens, a tensor [1, kv_heads, tokens, head_dim] a layer.

    Made once a step for all layers: slicing in every layer would cost a decode more than its attention.
    """

    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]


@dataclass(slots=True, eq=False)
class KVSpan:
    """KV of `length` tokens, `data` [layers, 2, kv_heads, capacity, head_dim].

    One tensor a span, so that a document moves between tiers in one copy. Spans are read where they lie: a
    sequence is a list of them, and no step copies KV that another has written. Only the engine writes, and only
    behind `length`; once a span is full it never changes, and belongs to the holders of its node.
    """

    data: torch.Tensor
    length: int = field(default=0)

    @property
    def capacity(self) -> int:
        """Tokens that the memory is for."""
        return self.data.shape[3]

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return self.capacity - self.length

    def views(self, first: int, last: int) -> LayerViews:
        """Tokens [first, last) layer by layer, as views of this span's memory."""
        part = self.data[:, :, :, first:last].unsqueeze(2)
        return LayerViews(part[:, 0].unbind(0), part[:, 1].unbind(0))
