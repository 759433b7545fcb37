"""Staged search: a vector search that shows its best results so far after each share of its effort."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from math import ceil
from typing import Any, NamedTuple, Protocol

import faiss
import numpy as np

from retrieval.errors import SearchError

MOST_STAGES = 4  # of a search that chooses its own shares


class Stage(NamedTuple):
    """The best results so far. Later stages never change the arrays, but may share them: treat them as read-only."""

    ids: np.ndarray  # int64 [k], best first; -1 where fewer than k were found
    scores: np.ndarray  # float32 [k], as FAISS gives them: inner products, or squared distances
    done: bool  # this is the last stage: the results are final
    effort: int  # spent so far, in the search's own unit


class StagedSearch(Protocol):
    """Searches one FAISS index in stages. Any number of threads may search at once, each iterating its own search.

    A stage is computed when the iterator is advanced, on the calling thread and without the GIL; dropping the iterator
    ends the search. The index must not change, and is kept alive.
    """

    def search(self, query: np.ndarray, k: int, effort: int, shares: Sequence[float] | None = None) -> Iterator[Stage]:
        """One stage after each share of `effort`; the last one, and no other, is `done`.

        `query` is float32 [dim]; `k` and `effort`, in the search's own unit, are 1 or more. `shares` are cumulative,
        rising, and end in 1; without them the search chooses up to MOST_STAGES. Shares that round to the same effort
        make one stage. Equal calls give equal stages. Raises SearchError at once if an argument is wrong.
        """
        ...


class FlatStages:
    """A search that compares every vector, in one stage: part of the rows would say little about the others.

    It ignores the given effort and shares; what it reports is the number of vectors.
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
        """The single stage, as `StagedSearch.search` promises it."""
        return self._stages(checked_query(query, k, self._index.d), k)

    def _stages(self, query: np.ndarray, k: int) -> Iterator[Stage]:
        faiss.omp_set_num_threads(1)
        scores, ids = self._index.search(query.reshape(1, -1), k)
        yield Stage(ids[0], scores[0], True, self._index.ntotal)


def checked_query(query: np.ndarray, k: int, dim: int) -> np.ndarray:
    """The query as contiguous float32 [dim]; SearchError if its shape or `k` is wrong."""
    if k < 1:
        raise SearchError(f"k is {k}, but it must be 1 or more")
    query = np.ascontiguousarray(query, dtype=np.float32)
    if query.shape != (dim,):
        raise SearchError(f"the query has shape {list(query.shape)}, but the index needs [{dim}]")
    return query


@lru_cache(maxsize=256)
def cuts(effort: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """The efforts at which a search of `effort` shows a stage, rising to `effort`; SearchError for wrong arguments."""
    if effort < 1:
        raise SearchError(f"the search effort is {effort}, but it must be 1 or more")
    rising = all(first < second for first, second in pairwise(shares))
    if not shares or not rising or shares[0] <= 0 or shares[-1] != 1:
        raise SearchError(f"shares are {list(shares)}, but they must rise from above 0 to exactly 1")
    return tuple(dict.fromkeys(ceil(share * effort) for share in shares))


def even_shares(stages: int) -> tuple[float, ...]:
    """Cumulative shares that cut a search into this many stages of equal effort; SearchError for less than one."""
    if stages < 1:
        raise SearchError(f"a search of {stages} stages is not possible; it has 1 or more")
    return tuple((stage + 1) / stages for stage in range(stages))
