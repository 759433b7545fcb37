"""Answer: the query that a user sends to the service, and the events and the answer that come back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """A question; what is None gets the service's default. After `timeout_ms` milliseconds its work is stopped.

    Above `temperature` 0, tokens are drawn from the most probable ones that have `top_p` of the probability together;
    equal seeds give equal answers. The answer ends before the first of the `stop` strings that appears. Queries of
    different `tenant`s (a name of 1 to 200 characters) share no KV, on any tier. The model reads the documents in the
    `order` "retrieval", the best first, or "tree", as most of the prompt is cached.
    """

    question: str
    top_k: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    timeout_ms: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tenant: str = "default"
    order: str | None = None


@dataclass(frozen=True, slots=True)
class UsedDocument:
    """A document of the prompt. A larger `score` is a better match; `truncated`: only its beginning fitted.

    A passage is characters `start` to `end` of the text of document `source`. A whole document is its own source.
    """

    id: str
    title: str
    score: float
    truncated: bool
    source: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class CachedTokens:
    """Prompt tokens whose KV was cached, by the tier it lay on."""

    device: int = 0
    host: int = 0
    disk: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request: `computed_tokens`, `cached_tokens` and `moved_tokens` add up to `prompt_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    computed_tokens: int
    cached_tokens: CachedTokens

    @property
    def moved_tokens(self) -> int:
        """Prompt tokens whose KV was computed elsewhere and moved here, so that it is not exact; 0 by default."""
        cached = self.cached_tokens
        return self.prompt_tokens - self.computed_tokens - cached.device - cached.host - cached.disk


@dataclass(frozen=True, slots=True)
class Speculated:
    """Work that was begun before the search was over.

    `started`: how often. `used`: whether the answer came of it. `wasted_tokens`: computed in vain, which does not count
    tokens whose KV stays in the cache.
    """

    started: int = 0
    used: bool = False
    wasted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of a request went, in milliseconds.

    `retrieval_ms`: from arrival to the final documents. `queue_ms`: from there to the engine's first step.
    `prefill_ms`: from there to the whole prompt. `ttft_ms` and `total_ms`: from arrival to the first and to the last
    token. `search_overlap_ms`: by how much the speculation that became the answer began before the final documents;
    `queue_ms` and `prefill_ms` are what was left of it.
    """

    retrieval_ms: float
    queue_ms: float
    prefill_ms: float
    ttft_ms: float
    total_ms: float
    search_overlap_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Retrieved:
    """First event of a request: the documents that its answer is generated from."""

    id: str
    documents: tuple[UsedDocument, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Last event of a request.

    `finish_reason` is "stop" (the model ended its answer) or "length" (`max_tokens` were generated). `documents` come
    best first, `order` has their ids as the model read them.
    `token_ids` are the generated ones and `margins` their best logits less the second best: both serve comparisons.
    """

    id: str
    answer: str
    finish_reason: str
    documents: tuple[UsedDocument, ...]
    order: tuple[str, ...]
    usage: Usage
    timing: Timing
    speculation: Speculated
    token_ids: tuple[int, ...]
    margins: tuple[float, ...]


ServiceEvent = Retrieved | Delta | Answer
