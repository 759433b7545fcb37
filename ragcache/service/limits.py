"""Limits: bounds of what the service accepts, and defaults for what a query leaves open."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of what the service accepts, and defaults for what a query leaves open.

    `top_k` documents a prompt by default, `max_tokens` of an answer by default and at most. `max_batch` requests run at
    a time, and `max_waiting` more may wait; the turn may overtake a request `reorder_window` times. With `speculate`,
    documents of an unfinished search are prefilled, while fewer than `max_prefill_batch` prompts await their prefill.
    `order` of a prompt's documents is "retrieval", the best first, or "tree", by what is cached of it.
    """

    top_k: int
    max_tokens: int
    max_batch: int = 8
    max_waiting: int = 64
    reorder_window: int = 0
    max_prefill_batch: int = 4
    speculate: bool = False
    order: str = "retrieval"
