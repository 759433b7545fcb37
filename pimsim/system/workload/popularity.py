"""Popularity: how often each document is requested: (rank + offset)^-exponent, or as a trace has it."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np

from pimsim.system.described.config import Workload
from pimsim.system.workload.traces import document_lists

COUNTED = 20_000  # requests of a trace whose documents are counted, at most


@dataclass(frozen=True, slots=True)
class Popularity:
    """Documents and the share of requests that each has, the most popular first."""

    documents: np.ndarray  # int64 or, where numbers are larger, objects [documents]
    shares: np.ndarray  # float64 [documents], of sum 1

    @property
    def fingerprint(self) -> int:
        """A checksum of the shares."""
        return zlib.crc32(self.shares.tobytes())


def popularity(workload: Workload) -> Popularity:
    """The popularity that the workload states, or counted in its documents' file. TraceError for a file that cannot be
    read.

    Documents of a trace that are as popular as each other stand in the order in which they were first requested.
    """
    if workload.documents_file:
        counts = Counter(document for of_request in counted_lists(workload) for document in of_request)
        documents, weights = zip(*counts.most_common(), strict=True)
        shares = np.array(weights, float)
        return Popularity(np.array(documents), shares / shares.sum())
    ranks = np.arange(1, workload.popular_documents + 1)
    weights_of_ranks = (ranks + workload.popularity_offset) ** -workload.popularity_exponent
    return Popularity(ranks - 1, weights_of_ranks / weights_of_ranks.sum())


def counted_lists(workload: Workload) -> list[tuple[int, ...]]:
    """The lists of the documents' file that are read: all that a run needs, and what is counted."""
    return document_lists(workload.documents_file, max(COUNTED, workload.warm_requests + workload.requests))
