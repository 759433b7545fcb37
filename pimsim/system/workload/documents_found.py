"""Documents found: which documents each retrieval of each request finds, whenever it comes.

A request's first retrieval finds its documents. Until the next one each of them is replaced by another, drawn by
popularity, as often as it has outlived its use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pimsim.compiled import kernel, part
from pimsim.system.described.config import Workload
from pimsim.system.workload.requests import Documents, Request


@dataclass(frozen=True, slots=True)
class Retrievals:
    """The retrievals of some requests: a row for each, a request's one after the other.

    Documents are numbers, the most popular 0.
    """

    first: list[int]  # [requests]: row of its first
    documents: np.ndarray  # int64 [rows, most documents of a request]
    counts: np.ndarray  # int64 [rows]: how many of them there are
    there: np.ndarray  # bool [rows, most documents]: whose KV the retrieval before left
    changed: list[bool]  # [rows]: whether any is not there
    sums: np.ndarray  # float64 [documents]: shares of requests, added up

    def strangers(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A document for each of these rows (int64, those of a retrieval one after the other) that its retrieval has
        not found.

        They are drawn by popularity, and none twice; any document where there are no more.
        """
        documents: np.ndarray = _strangers(rows, self.documents, self.counts, self.sums, rng.integers(2**32))
        return documents


class Draws:
    """Draws the retrievals of a workload's requests; what one finds does not depend on which others are drawn."""

    def __init__(self, workload: Workload, documents: Documents, requests: Sequence[Request]) -> None:
        self._workload, self._sums = workload, documents.sums
        self.most = max(len(request.documents) for request in requests)
        self.numbers = {document: number for number, document in enumerate(documents.known)}
        self._seeds = np.random.default_rng([workload.seed, 6]).integers(2**32, size=len(requests))

    def of(self, requests: Sequence[Request]) -> Retrievals:
        """The retrievals of these requests, in their order."""
        workload = self._workload
        every = workload.retrieve_every
        rounds = np.array([1 + (request.output - 1) // every if every else 1 for request in requests])
        counts = np.array([len(request.documents) for request in requests])
        first = np.cumsum(rounds) - rounds
        documents = np.zeros((int(rounds.sum()), self.most), np.int64)
        for row, request in zip(first.tolist(), requests, strict=True):
            documents[row, : len(request.documents)] = [self.numbers[document] for document in request.documents]
        changed = np.zeros(documents.shape, np.bool_)
        seeds = self._seeds[[request.number for request in requests]]
        kept = math.exp(-every / workload.document_life_tokens)
        _replace(documents, changed, first, rounds, counts, seeds, kept, self._sums)
        if workload.context == "all":  # all behind the first that has changed
            changed = np.logical_or.accumulate(changed, axis=1)
        changed[first] = True
        counts = np.repeat(counts, rounds)
        wanted = np.arange(self.most) < counts[:, None]
        some: list[bool] = np.any(wanted & changed, axis=1).tolist()
        return Retrievals(first.tolist(), documents, counts, wanted & ~changed, some, self._sums)


@part
def _drawn(sums: Any) -> Any:
    return min(np.searchsorted(sums, np.random.random(), side="right"), sums.shape[0] - 1)


@kernel
def _replace(
    documents: Any, changed: Any, first: Any, rounds: Any, counts: Any, seeds: Any, kept: Any, sums: Any
) -> None:
    """Fill the rows behind each request's first."""
    for request in range(first.shape[0]):
        np.random.seed(seeds[request])
        count = counts[request]
        for row in range(first[request] + 1, first[request] + rounds[request]):
            documents[row] = documents[row - 1]
            for place in range(count):
                changed[row, place] = np.random.random() >= kept
            for place in range(count):
                while changed[row, place]:
                    document = _drawn(sums)
                    if count >= sums.shape[0] or not (documents[row, :count] == document).any():
                        documents[row, place] = document
                        break


@kernel
def _strangers(rows: Any, documents: Any, counts: Any, sums: Any, seed: Any) -> Any:
    np.random.seed(seed)
    strangers = np.empty(rows.shape[0], np.int64)
    first = 0
    for number in range(rows.shape[0]):
        row = rows[number]
        if row != rows[first]:
            first = number
        known = documents[row, : counts[row]]
        while True:
            document = _drawn(sums)
            others = counts[row] + number - first
            drawn = strangers[first:number]
            if others >= sums.shape[0] or not ((known == document).any() or (drawn == document).any()):
                break
        strangers[number] = document
    return strangers
