"""PaperLoad: traffic like that of RAGCache's evaluation: 0.3 M pages, skewed questions, and real searches for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from eval.bench_search import clustered
from ragcache.replay.search_profile import SearchProfile
from ragcache.replay.search_recording import record
from ragcache.replay.workload import TimedRequest, Workload
from retrieval.ivf_stages import IVFStages
from retrieval.staged_search import even_shares

MEAN_TOKENS = 3718  # of a page [paper]
SIGMA = 0.6  # of the logarithm of a page's tokens: an assumption, as Wikipedia's longer articles have it
LONGEST = 12_000  # tokens, so that two pages and more fit a prompt
HOT_SHARE, HOT_TRAFFIC = 0.03, 0.60  # the top 3 % of the pages serve 60 % of the requests [paper, MMLU]
QUESTION_TOKENS = 64  # assumption
# how far a question lies from the page it is about: so near that it finds that page first, because the paper's skew is
# that of the pages retrieved, which questions that miss theirs would flatten
QUESTION_SPREAD = 0.9
DIM = 384


@dataclass(frozen=True, slots=True)
class PaperLoad:
    """Requests for `top_k` pages each, and the searches that found them, request by request."""

    workload: Workload
    searches: SearchProfile
    found_first: float  # share of questions whose page came first

    def with_output(self, tokens: int) -> Workload:
        """The same requests with answers of `tokens` tokens."""
        return Workload(
            tuple(
                TimedRequest(request.time, request.documents, request.question, tokens)
                for request in self.workload.requests
            )
        )


class Pages:
    """The corpus: sizes, popularity, vectors and their IVF index of `lists` clusters. All drawn with one seed."""

    def __init__(self, count: int, lists: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        mu = math.log(MEAN_TOKENS) - SIGMA**2 / 2
        self.tokens = np.clip(random.lognormal(mu, SIGMA, count), 64, LONGEST).astype(int)
        weights = np.arange(1, count + 1, dtype=float) ** -_exponent(count)
        self._popularity = (weights / weights.sum())[random.permutation(count)]
        self.vectors, _ = clustered(count, DIM, 1, seed)
        self.index: Any = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, lists, faiss.METRIC_INNER_PRODUCT)
        training = self.vectors[random.permutation(count)[: 40 * lists]]
        self.index.train(training)
        self.index.add(self.vectors)
        self._random = random

    def questions(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Pages drawn by popularity [count], and the vector of a question about each [count, DIM]."""
        pages = self._random.choice(len(self.tokens), size=count, p=self._popularity)
        noise = self._random.standard_normal((count, DIM), dtype=np.float32)
        near = self.vectors[pages] + np.float32(QUESTION_SPREAD / DIM**0.5) * noise
        return pages, near / np.linalg.norm(near, axis=1, keepdims=True)

    def load(
        self, pages: np.ndarray, questions: np.ndarray, *, top_k: int, nprobe: int, stages: int = 4, repeat: int = 1
    ) -> PaperLoad:
        """Searches for every question, `nprobe` lists each, in stages of equal effort and on one thread."""
        staged = IVFStages(self.index)
        ids: list[list[int]] = []

        def search(vector: np.ndarray) -> Iterator[tuple[Sequence[int], int]]:
            nearest: Sequence[int] = ()
            for stage in staged.search(vector, top_k, nprobe, even_shares(stages)):
                nearest = stage.ids.tolist()
                yield nearest, stage.effort
            ids.append(list(nearest))

        faiss.omp_set_num_threads(1)
        searches = record(search, questions, index_type="ivf", indexed=len(self.tokens), repeat=repeat)
        requests = tuple(
            TimedRequest(0.0, tuple((str(row), int(self.tokens[row])) for row in rows), QUESTION_TOKENS, 1)
            for rows in ids[repeat - 1 :: repeat]
        )
        first = float(np.mean([rows[0] == page for rows, page in zip(ids[::repeat], pages, strict=True)]))
        return PaperLoad(Workload(requests), searches, first)


def _exponent(count: int) -> float:
    """The exponent of the Zipf law over `count` pages that gives the hottest HOT_SHARE their HOT_TRAFFIC."""
    ranks, hot = np.arange(1, count + 1, dtype=float), max(1, round(count * HOT_SHARE))
    low, high = 0.0, 3.0
    for _ in range(60):
        middle = (low + high) / 2
        weights = ranks**-middle
        if weights[:hot].sum() / weights.sum() < HOT_TRAFFIC:
            low = middle
        else:
            high = middle
    return high
