"""Staged search: a vector search that shows its top-k on the way, after each share of its effort."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from math import ceil
from typing import Any, NamedTuple, Protocol

import faiss
import numpy as np

from retrieval.errors import SearchError

MOST_STAGES = 4  # unless more are asked for


class Stage(NamedTuple):
    """The best found so far. Later stages never change the arrays, but may share them: only read them."""

    ids: np.ndarray  # int64 [k], best first; -1 where fewer than k were found
    scores: np.ndarray  # float32 [k], as FAISS gives them: inner products, or squared distances
    done: bool  # nothing will be better: this is the last stage
    effort: int  # spent so far, in the search's own unit


class StagedSearch(Protocol):
    """Searches one FAISS index in stages. Any number of threads may search at once; each iterates its own search.

    Works only while it is asked for a stage, on the thread that asks, without the GIL; dropping the iterator ends
    the search. The index must not change, and is kept alive.
    """

    def search(self, query: np.ndarray, k: int, effort: int, shares: Sequence[float] | None = None) -> Iterator[Stage]:
        """One stage after each share of `effort`; the last one, and no other, is `done`.

        `query` is float32 [dim], `k` and `effort` are 1 or more, `shares` cumulative, rising and ending in 1; without
        them the search chooses up to MOST_STAGES. Shares that round to the same effort make one stage. Wrong arguments
        are a SearchError at once. Equal calls give equal stages.
        """
        ...


class FlatStages:
    """A search that compares every vector, in one stage: part of the rows would say little about the rest.

    Its effort is the number of vectors, whatever is asked for.
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    def search(
        self,
        query: np.ndarray,
        k: int,
        effort: int,  # noqa: ARG002
        shares: Sequence[float] | None = None,  # noqa: ARG002
    ) -> Iterator[Stage]:
        return self._stages(checked_query(query, k, self._index.d), k)

    def _stages(self, query: np.ndarray, k: int) -> Iterator[Stage]:
        faiss.omp_set_num_threads(1)
        scores, ids = self._index.search(query.reshape(1, -1), k)
        yield Stage(ids[0], scores[0], True, self._index.ntotal)


def checked_query(query: np.ndarray, k: int, dim: int) -> np.ndarray:
    """The query as FAISS and our kernels read it, or SearchError."""
    if k < 1:
        raise SearchError(f"k is {k}, but it must be 1 or more")
    query = np.ascontiguousarray(query, dtype=np.float32)
    if query.shape != (dim,):
        raise SearchError(f"the query has shape {list(query.shape)}, but the index needs [{dim}]")
    return query


@lru_cache(maxsize=256)
def cuts(effort: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """The efforts at which a search of `effort` shows a stage: rising, the last is `effort`."""
    if effort < 1:
        raise SearchError(f"the search effort is {effort}, but it must be 1 or more")
    rising = all(first < second for first, second in pairwise(shares))
    if not shares or not rising or shares[0] <= 0 or shares[-1] != 1:
        raise SearchError(f"shares are {list(shares)}, but they must rise from above 0 to exactly 1")
    return tuple(dict.fromkeys(ceil(share * effort) for share in shares))


def even_shares(stages: int) -> tuple[float, ...]:
    """Shares that cut a search into stages of equal effort."""
    if stages < 1:
        raise SearchError(f"a search of {stages} stages was asked for; it has 1 or more")
    return tuple((stage + 1) / stages for stage in range(stages))
