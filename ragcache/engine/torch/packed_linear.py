"""PackedLinear: a linear layer whose weights lie as oneDNN reads them.

For the few rows of a decode step or of a question, a product is as fast as its weights arrive from memory. torch's
own float32 product on CPU (MKL) reached 12 GB/s where this one reached 22, measured on 2 cores of an AMD EPYC with one
row; with 1,024 rows they are equal. torch's compiler packs linear layers by the same two operators.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

# oneDNN keeps what it prepared for each number of rows, about 2 MiB a number, up to 1,024 shapes by default, and
# preparing takes 3 ms. Read at its first use
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
# Prompts come in every length: beyond this many, rows are filled up to a multiple of it, or a server's memory would
# grow with each new one (107 lengths took 219 MiB, and so take 48)
ROWS = 16
# More rows than this are computed in pieces, so that there are 47 numbers of rows, whatever the prefill chunk: with
# five shapes of weights they fit that cache. At 1,024 rows two products take as long as one, to 1 %
MOST_ROWS = 512


class PackedLinear(nn.Module):
    """y = x Wᵀ + b for float32 on CPU; the original weights are not kept."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.shape = (linear.in_features, linear.out_features)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach().clone()

    @property
    def biased(self) -> bool:
        return self._bias is not None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        rows = x.shape[-2] if x.dim() > 1 else 1
        if rows > MOST_ROWS:
            return torch.cat([self(piece) for piece in x.split(MOST_ROWS, -2)], -2)
        if rows <= ROWS or rows % ROWS == 0:
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        filled = pad(x, (0, 0, 0, -rows % ROWS))
        return torch.ops.mkldnn._linear_pointwise(filled, self._packed, self._bias, "none", [], "")[..., :rows, :]


def pack_linears(module: nn.Module) -> int:
    """Replaces the linear layers inside `module` where that is faster. Returns the number of replaced layers."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return 0
    replaced = 0
    for name, child in module.named_children():
        if type(child) is nn.Linear and child.weight.dtype == torch.float32 and child.weight.device.type == "cpu":
            setattr(module, name, PackedLinear(child))
            replaced += 1
        else:
            replaced += pack_linears(child)
    return replaced


def preparation(module: nn.Module, spared: nn.Module | None) -> Iterator[None]:
    """Has oneDNN prepare the packed layers inside `module`, but for `spared`; each item is another number of rows.

    To be run in the thread that will compute, for oneDNN prepares for its number of threads. Otherwise a server's
    memory grows by 2 to 4 MiB, and a step takes longer, whenever a step has a number of rows that none had before: it
    looks like a leak for hundreds of requests. In all it costs as much as 8,568 tokens in one layer of the model.
    """
    layers = {
        (layer.shape, layer.biased): layer
        for layer in module.modules()
        if isinstance(layer, PackedLinear) and layer is not spared
    }
    for rows in (*range(1, ROWS), *range(ROWS, MOST_ROWS + 1, ROWS)) if layers else ():
        with torch.inference_mode():  # not across the yield: the mode is the thread's
            for layer in layers.values():
                layer(torch.zeros(1, rows, layer.shape[0]))
        yield
