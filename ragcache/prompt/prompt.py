"""Prompt: the segments of token ids that a model reads: system, documents in order, question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ragcache.tree.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """`path` (system prompt, then documents in order) and the question behind it.

    The model reads their tokens, one after another, and nothing else.
    """

    path: tuple[Segment, ...]
    question: Sequence[int]

    @property
    def documents(self) -> tuple[Segment, ...]:
        return self.path[1:]

    def __len__(self) -> int:
        return sum(map(len, self.path)) + len(self.question)
