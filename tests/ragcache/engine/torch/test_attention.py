"""Attention over split contexts is attention over the whole, by every implementation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ragcache.engine.torch.attention import attend, attend_plainly, merge, merge_at_once
from tests.props.budget import examples

TOLERANCE = {"rtol": 1e-5, "atol": 2e-6}
SHAPES = [(1, 1, 16), (4, 4, 8), (4, 2, 16), (6, 2, 64), (9, 3, 64), (8, 1, 40)]  # heads, KV heads, head dimension


def tensors(
    heads: int, kv_heads: int, dim: int, new: int, keys: int, *, seed: int = 0, spread: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * spread

    return draw(1, heads, new, dim), draw(1, kv_heads, keys, dim), draw(1, kv_heads, keys, dim)


def exactly(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """The definition, in float64, one head at a time."""
    ratio = query.shape[1] // key.shape[1]
    outs, sums = [], []
    for head in range(query.shape[1]):
        q, k, v = (t.double() for t in (query[0, head], key[0, head // ratio], value[0, head // ratio]))
        scores = scale * (q @ k.T)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
        outs.append(scores.softmax(-1) @ v)
        sums.append(scores.logsumexp(-1))
    return torch.stack(outs)[None], torch.stack(sums)[None]


@pytest.mark.parametrize("function", [attend, attend_plainly])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), SHAPES)
@pytest.mark.parametrize(("new", "keys", "causal"), [(1, 1, False), (1, 37, False), (5, 37, False), (33, 33, True)])
def test_output_and_log_sum_exp_are_those_of_the_definition(function, heads, kv_heads, dim, new, keys, causal):
    query, key, value = tensors(heads, kv_heads, dim, new, keys)
    scale = 0.7 * dim**-0.5
    out, lse = function(query, key, value, causal=causal, scale=scale)
    expected_out, expected_lse = exactly(query, key, value, causal=causal, scale=scale)
    torch.testing.assert_close(out.double(), expected_out, **TOLERANCE)
    torch.testing.assert_close(lse.double(), expected_lse, **TOLERANCE)


@pytest.mark.parametrize("function", [attend, attend_plainly])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), SHAPES)
def test_output_is_that_of_pytorch(function, heads, kv_heads, dim):
    for new, keys, causal in [(1, 50, False), (7, 50, False), (50, 50, True)]:
        query, key, value = tensors(heads, kv_heads, dim, new, keys)
        out, _ = function(query, key, value, causal=causal, scale=dim**-0.5)
        expected = scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True)
        torch.testing.assert_close(out, expected, **TOLERANCE)


def test_keys_and_values_may_be_views_into_larger_memory():
    """Spans are read where they lie: strided, with room behind."""
    query, key, value = tensors(6, 2, 16, 3, 20)
    memory = torch.full((2, 2, 64, 16), math.nan)
    memory[0, :, :20], memory[1, :, :20] = key[0], value[0]
    views = memory[0, :, :20].unsqueeze(0), memory[1, :, :20].unsqueeze(0)
    for function in (attend, attend_plainly):
        whole, lse = function(query, *views, causal=False, scale=0.25)
        expected = function(query, key, value, causal=False, scale=0.25)
        torch.testing.assert_close((whole, lse), expected)


@settings(max_examples=examples(80), deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    new=st.integers(1, 8),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
    seed=st.integers(0, 1000),
)
def test_a_split_context_merges_to_the_whole(shape, sizes, new, spread, seed):
    heads, kv_heads, dim = shape
    query, key, value = tensors(heads, kv_heads, dim, new, sum(sizes), seed=seed, spread=spread)
    expected, _ = exactly(query, key, value, causal=False, scale=dim**-0.5)
    for function in (attend, attend_plainly):
        parts = [
            function(query, k, v, causal=False, scale=dim**-0.5)
            for k, v in zip(key.split(sizes, dim=2), value.split(sizes, dim=2), strict=True)
        ]
        for merged in (merge(parts), merge_at_once(parts)):
            torch.testing.assert_close(merged.double(), expected, rtol=1e-4, atol=1e-5 * spread)


@settings(max_examples=examples(40), deadline=None)
@given(shape=st.sampled_from(SHAPES), cut=st.integers(1, 39), seed=st.integers(0, 1000))
def test_past_and_new_tokens_merge_to_causal_attention(shape, cut, seed):
    heads, kv_heads, dim = shape
    query, key, value = tensors(heads, kv_heads, dim, 40, 40, seed=seed)
    scale = dim**-0.5
    whole, _ = exactly(query, key, value, causal=True, scale=scale)
    parts = [
        attend(query[:, :, cut:], key[:, :, cut:], value[:, :, cut:], causal=True, scale=scale),
        attend(query[:, :, cut:], key[:, :, :cut], value[:, :, :cut], causal=False, scale=scale),
    ]
    torch.testing.assert_close(merge(parts).double(), whole[:, :, cut:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_are_not_rounded_to_16_bits(dtype):
    """A score of 16 in bfloat16 is off by up to 0.06: parts would be merged with wrong weights."""
    query, key, value = (tensor.to(dtype) for tensor in tensors(9, 3, 64, 4, 300, spread=2.0))
    out, lse = attend_plainly(query, key, value, causal=False, scale=0.125)
    expected_out, expected_lse = exactly(query, key, value, causal=False, scale=0.125)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.double(), expected_out, rtol=0, atol=4 * torch.finfo(dtype).eps)
    parts = [
        attend_plainly(query, key[:, :, s], value[:, :, s], causal=False, scale=0.125)
        for s in (slice(99), slice(99, 300))
    ]
    for merged in (merge(parts), merge_at_once(parts)):
        assert merged.dtype == torch.float32
        torch.testing.assert_close(merged.double(), expected_out, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_order_of_the_parts_does_not_matter():
    query, key, value = tensors(4, 2, 16, 5, 30)
    sizes = [4, 17, 9]
    cuts = list(zip(key.split(sizes, dim=2), value.split(sizes, dim=2), strict=True))
    parts = [[attend(query, k, v, causal=False, scale=0.25) for k, v in order] for order in (cuts, cuts[::-1])]
    torch.testing.assert_close(merge(parts[0]), merge(parts[1]), **TOLERANCE)


def test_a_part_that_matters_nothing_changes_nothing():
    """Scores far below the others': exp underflows, which must give zero and not NaN."""
    query, key, value = tensors(2, 1, 8, 3, 10)
    near = attend(query, key, value, causal=False, scale=1.0)
    out, lse = attend(query, key, value * 1e6, causal=False, scale=1.0)
    for function in (merge, merge_at_once):
        torch.testing.assert_close(function([near, (out, lse - 200.0)]), near[0])


def test_large_scores_do_not_overflow():
    query, key, value = tensors(4, 2, 16, 6, 24, spread=30.0)
    for function in (attend, attend_plainly):
        parts = [
            function(query, key[:, :, s], value[:, :, s], causal=False, scale=1.0) for s in (slice(9), slice(9, 24))
        ]
        expected, _ = exactly(query, key, value, causal=False, scale=1.0)
        torch.testing.assert_close(merge(parts).double(), expected, rtol=1e-3, atol=1e-2)
