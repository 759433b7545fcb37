"""Prompt: the segments of token ids that a model reads: system, documents in order, question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ragcache.tree.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A path of segments (system prompt, then documents in order) and the token ids of the question behind it.

    The model reads exactly their tokens, one after another.
    """

    path: tuple[Segment, ...]
    question: Sequence[int]

    @property
    def documents(self) -> tuple[Segment, ...]:
        """The path without the system prompt."""
        return self.path[1:]

    def __len__(self) -> int:
        return sum(map(len, self.path)) + len(self.question)
