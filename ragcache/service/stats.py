"""ServiceStats: what became of all requests since the start."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

from ragcache.service.answer import Usage


@dataclass(slots=True)
class ServiceStats:
    """Totals since the start.

    `outcomes` counts requests by how they ended, `cached_tokens` prompt tokens by tier, of which `shared_tokens` were
    being computed for another request when their own had its turn. `retries` counts generations begun anew after a
    failure, `preemptions` those that gave way when device memory was exhausted. Of `speculations`, some were used;
    `wasted_tokens` are those that the others computed in vain. `audits` counts the recounts of the cache's books,
    `failed_audits` those after which they were wrong. `reloads` counts the indexes that took another's place,
    `failed_reloads` those that could not.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    computed_tokens: int = 0
    cached_tokens: Counter[str] = field(default_factory=Counter)
    shared_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0
    preemptions: int = 0
    speculations: int = 0
    used_speculations: int = 0
    wasted_tokens: int = 0
    audits: int = 0
    failed_audits: int = 0
    reloads: int = 0
    failed_reloads: int = 0

    def count(self, usage: Usage, shared_tokens: int) -> None:
        """Adds the tokens of an answered request."""
        self.shared_tokens += shared_tokens
        self.computed_tokens += usage.computed_tokens
        for tier, tokens in asdict(usage.cached_tokens).items():
            self.cached_tokens[tier] += tokens
        self.completion_tokens += usage.completion_tokens
