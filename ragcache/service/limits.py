"""Limits: what the service accepts, and what a question gets that does not say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What the service accepts, and what a question gets that does not say.

    With `speculate`, documents of a search that goes on are prefilled while fewer than `max_prefill_batch` prompts are
    to be computed.
    """

    top_k: int
    max_tokens: int
    max_batch: int = 8
    max_waiting: int = 64
    reorder_window: int = 0
    max_prefill_batch: int = 4
    speculate: bool = False
