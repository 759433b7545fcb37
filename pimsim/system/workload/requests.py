"""Requests: when each request of a run comes, what it contains, which documents it gets, how long its answer is.

A trace that has fewer requests than the run begins again. The first `warm_requests` of a documents' file come before
the run. A prompt of a lengths' file is the documents and a question; one that is too short for its documents has a
question of one token behind them.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from pimsim.system.described.config import SystemConfig, Workload
from pimsim.system.workload.popularity import counted_lists, popularity
from pimsim.system.workload.traces import lengths


@dataclass(slots=True)
class Request:
    """One request, and its progress. Times are ps."""

    number: int
    arrival: int
    question: int  # tokens
    output: int  # tokens
    documents: list[int]  # that its first retrieval finds
    begun: int = 0
    first_token: int = 0
    done: int = 0
    generated: int = 0  # output tokens
    context: int = 0  # tokens whose KV is there
    retrievals: int = 0
    short: bool = False  # its prompt was to be shorter than its documents

    def next_retrieval(self, every: int) -> int:
        """Output tokens until the request retrieves again or is done."""
        left = self.output - self.generated
        return min(left, every - self.generated % every) if every else left


class Documents:
    """Draws documents by their popularity."""

    def __init__(self, workload: Workload) -> None:
        popular = popularity(workload)
        self.known: list[int] = popular.documents.tolist()
        self.sums = np.cumsum(popular.shares)  # float64 [documents], the most popular first
        self._sums: list[float] = self.sums.tolist()  # in which one draw is faster
        self._count = min(workload.documents, len(self.known))

    def one(self, rng: random.Random, other_than: list[int]) -> int:
        """Draw a document that is not among `other_than`, if there is one."""
        while True:
            document = self.known[min(bisect_right(self._sums, rng.random()), len(self._sums) - 1)]
            if document not in other_than or len(other_than) >= len(self._sums):
                return document

    def some(self, rng: random.Random) -> list[int]:
        """Draw the documents of a request, each once."""
        drawn: list[int] = []
        while len(drawn) < self._count:
            drawn.append(self.one(rng, drawn))
        return drawn


def earlier_documents(config: SystemConfig) -> list[list[int]]:
    """Documents of the requests that came before the run. TraceError for a file that cannot be read."""
    workload = config.workload
    if workload.documents_file:
        lists = counted_lists(workload)
        return [list(lists[number % len(lists)]) for number in range(workload.warm_requests)]
    drawn, rng = Documents(workload), random.Random(f"{workload.seed} earlier")
    return [drawn.some(rng) for _ in range(workload.warm_requests)]


def requests(config: SystemConfig) -> list[Request]:
    """All requests of the workload. TraceError for a file that cannot be read or has too little in it."""
    workload = config.workload
    rng = np.random.default_rng([workload.seed, 0])
    drawn = Documents(workload)
    lists = counted_lists(workload) if workload.documents_file else []
    recorded = lengths(workload.lengths_file, workload.requests) if workload.lengths_file else []
    gaps = (
        rng.exponential(1 / workload.rate_rps, workload.requests) if workload.rate_rps else np.zeros(workload.requests)
    )
    arrivals = np.cumsum(gaps)
    factors = np.exp(rng.normal(0, workload.length_spread, (workload.requests, 2))) if workload.length_spread else None
    drawn_requests = []
    for number in range(workload.requests):
        own = random.Random(f"{workload.seed} {number}")
        documents = list(lists[(workload.warm_requests + number) % len(lists)]) if lists else drawn.some(own)
        question, output = float(workload.question_tokens), float(workload.output_tokens)
        if recorded:
            prompt, output = recorded[number % len(recorded)]
            question = prompt - len(documents) * workload.document_tokens
        short = question < 1
        if factors is not None:
            question, output = max(1.0, question) * factors[number, 0], output * factors[number, 1]
        drawn_requests.append(
            Request(
                number=number,
                arrival=round(arrivals[number] * 1e12),
                question=max(1, round(question)),
                output=max(1, round(output)),
                documents=documents,
                short=short,
            )
        )
    return drawn_requests
