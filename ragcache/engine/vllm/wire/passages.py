"""Passages: a prompt cut into block-aligned segments, where its documents end.

vLLM keeps KV in blocks of tokens, and what a block's bytes mean inside is its attention kernel's own affair. So blocks
move whole: a document's end is rounded down to its block, and the few tokens behind it begin the next segment. A path
still spells the prompt token by token, and two prompts share a segment only if all before it is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ragcache.tree.segment import Segment

SEGMENTS_PARAM = "segments"  # of `kv_transfer_params`: tokens of each segment, in order, the question's left out


class BadBoundaries(ValueError):
    """`kv_transfer_params` that do not fit their prompt."""


def lengths_of(params: Any, prompt_tokens: int) -> list[int] | None:
    """Tokens of each segment as a request names them, None if it does not. BadBoundaries if that is nonsense."""
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
    """The prompt's segments, each of whole blocks of `block` tokens, from the prompt's first token on.

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
