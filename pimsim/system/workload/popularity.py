"""Popularity: how often each document is asked for: (rank + offset)^-exponent, or as a trace has it."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np

from pimsim.system.described.config import Workload
from pimsim.system.workload.traces import document_lists

COUNTED = 20_000  # requests of a trace whose documents are counted, if it has so many


@dataclass(frozen=True, slots=True)
class Popularity:
    """Of each document its share of all that is asked for, the most popular first."""

    documents: np.ndarray  # int64 or, where numbers are larger, objects [documents]
    shares: np.ndarray  # float64 [documents], of sum 1

    @property
    def fingerprint(self) -> int:
        return zlib.crc32(self.shares.tobytes())


def popularity(stated: Workload) -> Popularity:
    """As stated, or counted in the documents' file where there is one. TraceError for one that cannot be read.

    Documents of a trace that are as popular as each other stand in the order in which they were first asked for.
    """
    if stated.documents_file:
        counts = Counter(document for asked in counted_lists(stated) for document in asked)
        documents, weights = zip(*counts.most_common(), strict=True)
        shares = np.array(weights, float)
        return Popularity(np.array(documents), shares / shares.sum())
    ranks = np.arange(1, stated.popular_documents + 1)
    weights_of_ranks = (ranks + stated.popularity_offset) ** -stated.popularity_exponent
    return Popularity(ranks - 1, weights_of_ranks / weights_of_ranks.sum())


def counted_lists(stated: Workload) -> list[tuple[int, ...]]:
    """What is read of the documents' file: all that a run needs, and what is counted."""
    return document_lists(stated.documents_file, max(COUNTED, stated.warm_requests + stated.requests))
