"""Progress: how much of a job's prompt an engine has computed, and what it tells of that."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from ragcache.engine.protocol import Prefilled, Progressed
from ragcache.reuse.plan import Computed


@dataclass(slots=True)
class Progress:
    """Of `prompt_tokens` that a job has to compute, of its plan and then of its question, `pending` are left.

    A piece of the plan is whole when as many tokens are computed as one of the `piece_ends` says; they ascend.
    """

    prompt_tokens: int
    piece_ends: Sequence[int]
    pending: int

    @classmethod
    def of(cls, computed: Sequence[Computed], question_tokens: int) -> Progress:
        """The beginning, with the plan's computed pieces ahead and a question of at least one token."""
        ends = list(accumulate(map(len, computed)))
        prompt_tokens = (ends[-1] if ends else 0) + question_tokens
        return cls(prompt_tokens, ends, prompt_tokens)

    @property
    def computed_tokens(self) -> int:
        """Tokens whose KV the job has computed."""
        return self.prompt_tokens - self.pending

    def advance(self, tokens: int) -> Progressed | Prefilled | None:
        """Takes in a step that computed `tokens` of those pending. Returns what is to be delivered, if anything is."""
        before = bisect_right(self.piece_ends, self.computed_tokens)
        self.pending -= tokens
        if not self.pending:
            return Prefilled(self.computed_tokens)
        whole = bisect_right(self.piece_ends, self.computed_tokens)
        return Progressed(self.computed_tokens) if whole > before else None
