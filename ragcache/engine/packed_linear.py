"""PackedLinear: a linear layer whose weights lie as oneDNN reads them.

For the few rows of a decode step or of a question, a product is as fast as its weights arrive from memory. torch's
own float32 product on CPU (MKL) reached 12 GB/s where this one reached 22, measured on 2 cores of an AMD EPYC with one
row; with 1,024 rows they are equal. torch's compiler packs linear layers by the same two operators.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

# oneDNN keeps what it prepared for each number of rows, about 2 MiB a number, up to 1,024 shapes by default, and
# preparing takes 3 ms. Read at its first use
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
# Prompts come in every length: beyond a few, rows are filled up to a multiple of so many, or a server's memory would
# grow with each new one (107 lengths took 219 MiB, and so take 48)
ROWS = 16


class PackedLinear(nn.Module):
    """y = x Wᵀ + b for float32 on CPU; the original weights are not kept."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        rows = x.shape[-2] if x.dim() > 1 else 1
        if rows <= ROWS or rows % ROWS == 0:
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        filled = pad(x, (0, 0, 0, -rows % ROWS))
        return torch.ops.mkldnn._linear_pointwise(filled, self._packed, self._bias, "none", [], "")[..., :rows, :]


def pack_linears(module: nn.Module) -> int:
    """Replaces the linear layers inside `module` where that helps; returns how many were replaced."""
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
