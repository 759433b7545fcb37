"""Passages: a prompt cut into block-aligned segments, where its documents end.

vLLM keeps KV in blocks of tokens, and what a block's bytes mean is up to its attention kernel. So blocks move whole: a
document's end is rounded down to its block, and the few tokens behind it begin the next segment. A path still spells
the prompt token by token, and two prompts share a segment only if all tokens before it are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ragcache.tree.segment import Segment

SEGMENTS_PARAM = "segments"  # of `kv_transfer_params`: number of tokens of each segment, in order, without the question


class BadBoundaries(ValueError):
    """`kv_transfer_params` that do not fit their prompt."""


def lengths_of(params: Any, prompt_tokens: int) -> list[int] | None:
    """Number of tokens of each segment, as a request's `kv_transfer_params` say; None if they do not.

    BadBoundaries if they are not a list of counts above 0, or more than the prompt has.
    """
    if not isinstance(params, dict) or SEGMENTS_PARAM not in params:
        return None
    lengths = params[SEGMENTS_PARAM]
    if not isinstance(lengths, list | tuple) or not all(type(n) is int and n > 0 for n in lengths):
        raise BadBoundaries(f"kv_transfer_params: {SEGMENTS_PARAM!r} must be a list of token counts above 0")
    if sum(lengths) > prompt_tokens:
        raise BadBoundaries(
            f"kv_transfer_params: {SEGMENTS_PARAM!r} sum to {sum(lengths)} tokens, the prompt has {prompt_tokens}"
        )
    return list(lengths)


def passages(tokens: Sequence[int], lengths: Sequence[int] | None, block: int, chunk: int) -> list[Segment]:
    """Cuts a prompt from its first token on, each segment in whole blocks of `block` tokens.

    Without `lengths`, the whole prompt is cut into chunks of about `chunk` tokens.
    """
    if lengths is None:
        size = max(1, chunk // block) * block
        lengths = [size] * (len(tokens) // size) + [len(tokens) % size]
    segments = []
    first = end = 0
    for number, length in enumerate(lengths):
        end += length
        last = end // block * block
        if last > first:
            segments.append(Segment.of(f"passage {number}", tokens[first:last]))
            first = last
    return segments
