"""PagedKV: a worker's share of vLLM's KV, in blocks that move whole.

What the bytes of a block mean is up to the attention kernel (on a CPU it interleaves the keys of 32 tokens), so nothing
here looks inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ragcache.engine.torch.kv import on_pages
from ragcache.errors import ConfigError

FORMAT_VERSION = 1  # changes with the order of bytes in HostBlocks


@dataclass(frozen=True, slots=True, eq=False)
class HostBlocks:
    """Blocks in host memory: `data` is [layers, blocks, bytes of a block] of uint8."""

    data: Tensor

    @property
    def buffer(self) -> memoryview:
        """All bytes of the blocks, flat, in the same memory."""
        return self.data.view(-1).numpy().data


@dataclass(frozen=True, slots=True)
class Filling:
    """A copy to be made: the blocks of `host` from number `first` on go to `blocks`, in order."""

    host: HostBlocks
    first: int
    blocks: Sequence[int]


class PagedKV:
    """The KV tensors that vLLM registered, one a layer, each seen as rows of bytes, one a block.

    On CUDA, copies run on a stream of their own: out of blocks once all work queued before is done, into blocks layer
    by layer, so that the forward may start with the first layers while the others are on their way.
    """

    def __init__(self, layers: Mapping[str, Tensor]) -> None:
        """`layers`: by name, tensors whose first dimension is the block. ConfigError for tensors of any other kind."""
        if not layers:
            raise ConfigError("the model has no layer with KV in blocks")
        self._rows = [_rows(name, layer) for name, layer in layers.items()]
        first = next(iter(layers.values()))
        if len({(layer.shape, layer.dtype) for layer in layers.values()}) > 1:
            raise ConfigError("the model's layers have KV of different shapes, which this connector does not support")
        self._number = {name: number for number, name in enumerate(layers)}
        self.block_bytes = len(layers) * self._rows[0].shape[1]
        self.blocks = first.shape[0]
        self._shape = (len(layers), self._rows[0].shape[1])
        self._described = f"{len(layers)} layers of {list(first.shape[1:])} {first.stride()[1:]} {first.dtype}"
        cuda = first.device.type == "cuda"
        if first.device.type not in ("cpu", "cuda"):
            raise ConfigError(f"KV on a device of type {first.device.type!r} is not supported, only cpu and cuda")
        self._device = first.device
        self._stream = torch.cuda.Stream(first.device) if cuda else None
        self._filled: list[torch.cuda.Event] = []  # by layer, of the load that is under way
        self._numpy = [] if cuda else [row.numpy() for row in self._rows]

    def describe(self) -> str:
        """A text that is equal for tensors whose blocks have the same bytes, on kernels that read them the same way."""
        return f"ragcache-blocks {FORMAT_VERSION}: {self._described}"

    @property
    def on_cuda(self) -> bool:
        """Whether the blocks are in a GPU's memory."""
        return self._stream is not None

    def empty(self, blocks: int) -> HostBlocks:
        """Host memory for this number of blocks, pinned on CUDA. MemoryError if there is not enough."""
        shape = (self._shape[0], blocks, self._shape[1])
        if self._stream is None:
            return HostBlocks(on_pages(shape, torch.uint8))
        try:
            return HostBlocks(torch.empty(shape, dtype=torch.uint8, pin_memory=True))
        except RuntimeError as error:  # torch has no class for a host that is full
            raise MemoryError(f"no pinned memory for {math.prod(shape)} bytes of KV: {error}") from error

    def gather(self, blocks: Sequence[int]) -> tuple[HostBlocks, Callable[[], None]]:
        """A copy of blocks as they are once all work queued so far is done, and a function that waits for the copy.

        MemoryError if the host has no memory for it.
        """
        host = self.empty(len(blocks))
        if self._stream is None:
            index = np.asarray(blocks)
            for rows, out in zip(self._numpy, host.data.numpy(), strict=True):
                np.take(rows, index, axis=0, out=out, mode="clip")  # "raise" would go through a buffer
            return host, lambda: None
        index_there = torch.tensor(blocks, device=self._device)
        # gathered in the engine's own order, so that the next forward may overwrite the blocks
        kept = torch.stack([rows.index_select(0, index_there) for rows in self._rows])
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            host.data.copy_(kept, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        kept.record_stream(self._stream)
        return host, done.synchronize

    def fill(self, fillings: Sequence[Filling]) -> None:
        """Copies into blocks. On CUDA that goes on beside: `wait_for_layer` has the current stream wait for a layer."""
        self._filled = self._fill(fillings)

    def _fill(self, fillings: Sequence[Filling]) -> list[torch.cuda.Event]:
        """Starts the copies; on CUDA returns the event of each layer's end."""
        if self._stream is None:
            for layer, array in enumerate(self._numpy):
                for filling in fillings:
                    part = filling.host.data[layer, filling.first : filling.first + len(filling.blocks)]
                    array[np.asarray(filling.blocks)] = part.numpy()
            return []
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        filled = []
        indices = [torch.tensor(filling.blocks, device=self._device) for filling in fillings]
        with torch.cuda.stream(self._stream):
            for layer, rows in enumerate(self._rows):
                for filling, index in zip(fillings, indices, strict=True):
                    index.record_stream(self._stream)
                    part = filling.host.data[layer, filling.first : filling.first + len(filling.blocks)]
                    rows.index_copy_(0, index, part.to(self._device, non_blocking=True))
                event = torch.cuda.Event()
                event.record()
                filled.append(event)
        return filled

    def queued(self) -> torch.cuda.Event | None:
        """All work that the calling thread has queued on the device so far, for `fill_and_wait`; None on a CPU."""
        return None if self._stream is None else torch.cuda.current_stream(self._device).record_event()

    def fill_and_wait(self, fillings: Sequence[Filling], after: torch.cuda.Event | None) -> None:
        """Copies into blocks once `after`, of `queued`, is done; all of them are complete on return.

        May be called from any thread. The engine's knows what may still use the blocks: streams are a thread's own.
        """
        if self._stream is None:
            self._fill(fillings)
            return
        with torch.cuda.device(self._device):
            if after is not None:
                self._stream.wait_event(after)
            for event in self._fill(fillings)[-1:]:
                event.synchronize()

    def wait_for_layer(self, name: str) -> None:
        """Work that is queued on the current stream from now on sees the layer of that name filled."""
        if self._filled and name in self._number:
            torch.cuda.current_stream(self._device).wait_event(self._filled[self._number[name]])

    def filled(self) -> None:
        """Call after the forward: work that is queued from now on sees all of the last `fill`."""
        if self._stream is not None and self._filled:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            self._filled = []


def _rows(name: str, layer: Tensor) -> Tensor:
    """A view [blocks, bytes of a block] of a layer's memory. ConfigError if a block is not in one piece."""
    block = layer[0]
    strides = block.stride()
    order = sorted(range(block.dim()), key=lambda dim: -strides[dim])
    if layer.dim() < 2 or not block.permute(order).is_contiguous():
        raise ConfigError(f"the KV of {name} has blocks that are not in one piece: {layer.shape}, {layer.stride()}")
    rows = layer.as_strided((layer.shape[0], block.numel()), (layer.stride(0), 1))
    return rows.view(torch.uint8)
