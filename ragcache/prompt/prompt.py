"""Prompt: the segments of token ids that a model reads: system, documents in order, question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ragcache.reuse.arrangement import Group
from ragcache.tree.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A path of segments (system prompt, then documents in order) and the token ids of the question behind it.

    The model reads exactly their tokens, one after another. `groups` are the documents at the end of the path as they
    may be rearranged; a prompt without groups is read as it is.
    """

    path: tuple[Segment, ...]
    question: Sequence[int]
    groups: tuple[Group, ...] = ()

    @classmethod
    def of(cls, system: Sequence[Segment], groups: Sequence[Group], question: Sequence[int]) -> Prompt:
        """The prompt of these segments, of the groups behind them, and of the question."""
        return cls((*system, *(segment for group in groups for segment in group.segments)), question, tuple(groups))

    @property
    def documents(self) -> tuple[Segment, ...]:
        """The path without the system prompt."""
        return self.path[1:]

    @property
    def system(self) -> tuple[Segment, ...]:
        """The path before the groups."""
        return self.path[: len(self.path) - sum(len(group.segments) for group in self.groups)]

    def arranged(self, order: Sequence[int]) -> Prompt:
        """The prompt with its groups in this order, given as their numbers."""
        return Prompt.of(self.system, [self.groups[number] for number in order], self.question)

    def __len__(self) -> int:
        return sum(map(len, self.path)) + len(self.question)
