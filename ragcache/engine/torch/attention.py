"""Packed attention: one forward over the new tokens of many sequences, each over KV spans of its own.

The tokens of all sequences lie behind one another in `[1, T]`. For each sequence the new queries attend to the
spans it already has and, causally, to themselves. Attention over a split context is exact: each part gives its
output and the log of its softmax's denominator, and the parts are averaged with those as weights
(FlashAttention-2, arXiv 2307.08691, section 3.1; split over keys as in Flash-Decoding).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ragcache.engine.torch.kv import LayerViews
from ragcache.errors import ModelError

ATTENTION_NAME = "ragcache_packed"
# arguments of attention functions that change the result: logit caps, sinks, biases of positions
UNSUPPORTED = frozenset({"softcap", "s_aux", "position_bias"})
# what torch's FlashAttention-2 takes
FLASH_DTYPES = (torch.float16, torch.bfloat16)
FLASH_DIMS = range(8, 257, 8)  # of a head


@dataclass(frozen=True, slots=True)
class SpanWrite:
    """A write of one step: the KV of tokens [first, last) of the packed batch goes to `target`."""

    target: LayerViews
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """One sequence's part of one step: its new tokens are [first, last) of the packed batch.

    The new tokens see all of `past`, whose parts may come in any order: positions are in the keys. With `causal` they
    see themselves and one another as well; without it they are a single token that `writes` put into `past`.
    """

    first: int
    last: int
    past: Sequence[LayerViews]
    writes: Sequence[SpanWrite]
    causal: bool


@dataclass(frozen=True, slots=True)
class PackedPlan:
    """The sequences of one step; together their ranges cover the packed batch."""

    sequences: Sequence[SequencePlan]


def attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores.

    query [1, H, T, D], key and value [1, KVH, n, D] with H a multiple of KVH; returns ([1, H, T, D], [1, H, T]).
    `causal` needs T = n.
    """
    if query.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scale
        )
        return out, lse
    if query.dtype in FLASH_DTYPES and query.shape[-1] in FLASH_DIMS and _has_flash(query.device):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, scale=scale)
        return out, lse
    return attend_plainly(query, key, value, causal=causal, scale=scale)


@functools.cache
def _has_flash(device: torch.device) -> bool:
    """Whether torch's FlashAttention-2 runs on this GPU: Ampere or later."""
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def attend_plainly(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """`attend` in elementary operations: for devices and dtypes that no fused kernel of torch's takes.

    Scores are of float32: rounded to bfloat16, one of 16 would be off by 6 %, and the log-sum-exp with it.
    """
    _, heads, tokens, dim = query.shape
    kv_heads, n = key.shape[1], key.shape[2]
    grouped = query.reshape(kv_heads, heads // kv_heads * tokens, dim)
    scores = torch.matmul(grouped.float(), key[0].float().transpose(-1, -2)).mul_(scale)
    if causal:
        hidden = torch.ones(tokens, n, dtype=torch.bool, device=query.device).triu_(1)
        scores.view(kv_heads, -1, tokens, n).masked_fill_(hidden, -math.inf)
    lse = scores.logsumexp(-1)
    weights = scores.sub_(lse.unsqueeze(-1)).exp_().to(value.dtype)
    out = torch.matmul(weights, value[0])
    return out.view(1, heads, tokens, dim), lse.view(1, heads, tokens)


def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Attention over the union of the parts' keys; each part is what `attend` returned for its keys."""
    if len(parts) > 1 and parts[0][0].device.type != "cpu":
        return merge_at_once(parts)
    total, total_lse = parts[0]
    for out, lse in parts[1:]:
        # two at a time: for the one row of a decode this takes 4 us where a softmax over both parts takes 11
        total = torch.lerp(total.float(), out.float(), torch.sigmoid(lse - total_lse).unsqueeze(-1))
        total_lse = torch.logaddexp(total_lse, lse)
    return total


def merge_at_once(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """`merge` in as few operations as there can be: on a GPU, to start them takes longer than they take."""
    weights = torch.stack([lse for _, lse in parts]).softmax(0).unsqueeze(-1)
    return torch.stack([out for out, _ in parts]).mul(weights).sum(0)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    plan: PackedPlan,
    **variant: object,
) -> tuple[Tensor, None]:
    """The attention function that `transformers` calls in each layer.

    query [1, H, T, D], key and value [1, KVH, T, D] are the new tokens' of all sequences, positions already
    encoded. Returns [1, T, H, D]. The new keys and values are written to their spans on the way. ModelError for an
    attention that is not plain causal softmax.
    """
    for name in UNSUPPORTED & variant.keys():
        if variant[name] is not None:
            raise ModelError(f"its attention has {name}, which this engine does not compute")
    if not getattr(module, "is_causal", True):
        raise ModelError("its attention looks ahead: it is an encoder")
    del attention_mask, dropout  # the plan says which tokens see which; inference drops none
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    output = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
    for sequence in plan.sequences:
        for write in sequence.writes:
            write.target.keys[layer].copy_(key[:, :, write.first : write.last])
            write.target.values[layer].copy_(value[:, :, write.first : write.last])
        rows = slice(sequence.first, sequence.last)
        new = query[:, :, rows]
        parts = [
            attend(new, views.keys[layer], views.values[layer], causal=False, scale=scale) for views in sequence.past
        ]
        if sequence.causal:
            parts.append(attend(new, key[:, :, rows], value[:, :, rows], causal=True, scale=scale))
        output[:, rows] = merge(parts).transpose(1, 2)
    return output, None
