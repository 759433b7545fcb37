"""Workload: the requests of a run: when each comes, what it asks, which documents it gets, how long its answer is."""

from __future__ import annotations

import csv
import gzip
import json
import math
import random
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pimsim.errors import TraceError
from pimsim.system.config import SystemConfig
from pimsim.system.config import Workload as Stated


@dataclass(slots=True)
class Request:
    """One request, and how far it is. Times are ps."""

    number: int
    arrival: int
    question: int  # tokens
    output: int  # tokens
    documents: list[int]
    rng: random.Random = field(repr=False)
    begun: int = 0
    first_token: int = 0
    done: int = 0
    made: int = 0  # output tokens
    context: int = 0  # tokens whose KV is there
    changed: list[int] = field(default_factory=list)  # positions of documents that wait for their prefill
    sure: int = 0  # of `changed`, how many are known to stay
    retrievals: int = 0

    def next_retrieval(self, every: int) -> int:
        """Output tokens until it retrieves again or is done."""
        left = self.output - self.made
        return min(left, every - self.made % every) if every else left


class Documents:
    """Draws documents by their popularity, (rank + offset)^-exponent, or from a file."""

    def __init__(self, stated: Stated) -> None:
        ranks = np.arange(1, stated.popular_documents + 1)
        weights = (ranks + stated.popularity_offset) ** -stated.popularity_exponent
        self._sum: list[float] = np.cumsum(weights / weights.sum()).tolist()
        self._count = min(stated.documents, stated.popular_documents)

    def one(self, rng: random.Random, other_than: list[int]) -> int:
        """A document that is not among these."""
        while True:
            document = min(bisect_right(self._sum, rng.random()), len(self._sum) - 1)
            if document not in other_than or len(other_than) >= len(self._sum):
                return document

    def some(self, rng: random.Random) -> list[int]:
        found: list[int] = []
        while len(found) < self._count:
            found.append(self.one(rng, found))
        return found

    def changed(self, request: Request, tokens: int, life: int) -> list[int]:
        """Positions at which other documents are found after so many tokens; they are put there."""
        kept = math.exp(-tokens / life)
        draw, documents = request.rng.random, request.documents
        positions = [at for at in range(len(documents)) if draw() >= kept]
        for at in positions:
            documents[at] = self.one(request.rng, documents)
        return positions


def earlier_documents(config: SystemConfig) -> list[list[int]]:
    """Documents of the requests that came before the first. TraceError for a file that cannot be read."""
    stated = config.workload
    if stated.documents_file:
        lists = _document_lists(stated.documents_file)
        return [lists[number % len(lists)] for number in range(stated.warm_requests)]
    popularity, rng = Documents(stated), random.Random(f"{stated.seed} earlier")
    return [popularity.some(rng) for _ in range(stated.warm_requests)]


def requests(config: SystemConfig) -> list[Request]:
    """All requests of the workload. TraceError for a file that cannot be read or has too little in it."""
    stated = config.workload
    rng = np.random.default_rng([stated.seed, 0])
    popularity = Documents(stated)
    lists = _document_lists(stated.documents_file) if stated.documents_file else []
    lengths = _lengths(stated.lengths_file) if stated.lengths_file else []
    gaps = rng.exponential(1 / stated.rate_rps, stated.requests) if stated.rate_rps else np.zeros(stated.requests)
    arrivals = np.cumsum(gaps)
    factors = np.exp(rng.normal(0, stated.length_spread, (stated.requests, 2))) if stated.length_spread else None
    found = []
    for number in range(stated.requests):
        own = random.Random(f"{stated.seed} {number}")
        documents = list(lists[(stated.warm_requests + number) % len(lists)]) if lists else popularity.some(own)
        question, output = float(stated.question_tokens), float(stated.output_tokens)
        if lengths:
            asked, output = lengths[number % len(lengths)]
            question = max(1.0, asked - len(documents) * stated.document_tokens)
        if factors is not None:
            question, output = question * factors[number, 0], output * factors[number, 1]
        found.append(
            Request(
                number=number,
                arrival=round(arrivals[number] * 1e12),
                question=max(1, round(question)),
                output=max(1, round(output)),
                documents=documents,
                rng=own,
            )
        )
    return found


def _text(path: str) -> str:
    try:
        data = Path(path).read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read ({error}); give a text file, plain or gzipped") from error


def _document_lists(path: str) -> list[list[int]]:
    """Of JSON lines: lists of numbers, or RAGPulse's `hash_ids.passages_ids`; a line without any is skipped."""
    found = []
    for line, text in enumerate(_text(path).splitlines(), 1):
        try:
            told: Any = json.loads(text) if text.strip() else []
        except ValueError as error:
            raise TraceError(f"{path}, line {line}: no JSON ({error})") from error
        if isinstance(told, dict):
            hashes = told.get("hash_ids")
            told = hashes.get("passages_ids", []) if isinstance(hashes, dict) else told.get("documents", [])
        if not isinstance(told, list) or not all(isinstance(entry, int) for entry in told):
            raise TraceError(f"{path}, line {line}: documents must be a list of whole numbers")
        if told:
            found.append(list(dict.fromkeys(told)))
    if not found:
        raise TraceError(f"{path}: no line names documents")
    return found


def _lengths(path: str) -> list[tuple[int, int]]:
    rows = csv.DictReader(_text(path).splitlines())
    if not {"ContextTokens", "GeneratedTokens"} <= set(rows.fieldnames or ()):
        raise TraceError(f"{path}: the header must name ContextTokens and GeneratedTokens")
    found = []
    for line, row in enumerate(rows, 2):
        try:
            prompt, output = int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (TypeError, ValueError) as error:
            raise TraceError(f"{path}, line {line}: lengths must be whole numbers") from error
        if prompt < 1 or output < 1:
            raise TraceError(f"{path}, line {line}: lengths must be 1 at least")
        found.append((prompt, output))
    if not found:
        raise TraceError(f"{path}: no rows")
    return found
