"""HNSW stages: a best-first search of a FAISS graph, cut into stages by the number of vertices expanded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from retrieval import hnsw_kernel
from retrieval.staged_search import MOST_STAGES, Stage, checked_query, cuts, even_shares

_UNLIMITED = 1 << 62
_LAST_STAMP = np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True)
class Visits:
    """What a traversal read: in hop `i` the neighbour list of `hops[i]`, then the vectors it had not yet compared.

    Those vectors are `vertices[ends[i - 1] : ends[i]]`, in order; before the first hop only the entry point is read.
    Levels are HNSW's, 0 is the lowest. On one level no vector is read twice, and on level 0 no list. The first list of
    a level is that of the nearest vertex of the level above.
    """

    vertices: np.ndarray  # int32 [visits]
    levels: np.ndarray  # int32 [visits]
    hops: np.ndarray  # int32 [hops]
    hop_levels: np.ndarray  # int32 [hops]
    ends: np.ndarray  # int32 [hops], the last is the number of visits


class VisitLog:
    """Records the traversal that it is passed to. One log serves one traversal at a time; the next overwrites it."""

    def __init__(self) -> None:
        self._visits = self._hops = np.empty((3, 0), np.int32)
        self._state = np.zeros(hnsw_kernel.STATE, np.int64)

    def visits(self) -> Visits:
        """A copy of the record so far."""
        visits = self._visits[:, : self._state[hnsw_kernel.VISITS]]
        hops = self._hops[:, : self._state[hnsw_kernel.HOPS]]
        return Visits(visits[0].copy(), visits[1].copy(), hops[0].copy(), hops[1].copy(), hops[2].copy())

    def _begin(self, capacity: int, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._visits, self._hops = np.empty((2, capacity), np.int32), np.empty((3, capacity), np.int32)
        self._state = state
        return self._visits, self._hops


class HNSWStages:
    """Searches an IndexHNSWFlat of either metric, without copying its graph or its vectors.

    Effort is `efSearch`: the pool of the best vertices seen holds that many, or `k` if that is more, and the search
    ends when all of them are expanded. A stage's effort is the number of vertices expanded on the lowest level: a
    share is reached after that share of `efSearch` vertices. The last stage expands what is left, usually some more.
    """

    def __init__(self, index: Any) -> None:
        hnsw = index.hnsw
        storage: Any = faiss.downcast_index(index.storage)
        self._index = index  # owns the memory that the arrays below show
        self._squared = index.metric_type == faiss.METRIC_L2
        self._count, self._dim = index.ntotal, index.d
        self._entry_point = hnsw.entry_point
        self._neighbours = _view(hnsw.neighbors.data(), hnsw.neighbors.size(), np.int32)
        self._offsets = _view(hnsw.offsets.data(), hnsw.offsets.size(), np.int64)
        self._spans = faiss.vector_to_array(hnsw.cum_nneighbor_per_level)[: hnsw.max_level + 2].astype(np.int64)
        self._vectors = _view(storage.get_xb(), self._count * self._dim, np.float32).reshape(self._count, self._dim)
        # every vector on every level, and the first of each level
        self._most_visits = int(faiss.vector_to_array(hnsw.levels).sum()) + len(self._spans) + 1
        self._seen: list[tuple[np.ndarray, int]] = []  # with the last stamp used; free for the next search
        self._no_log = np.empty((2, 0), np.int32), np.empty((3, 0), np.int32)
        if self._count:
            list(self.search(np.zeros(self._dim, np.float32), 1, 1))  # compiles, so that no later call waits for it

    def search(
        self,
        query: np.ndarray,
        k: int,
        effort: int,
        shares: Sequence[float] | None = None,
        log: VisitLog | None = None,
    ) -> Iterator[Stage]:
        """As `StagedSearch.search`; `log` records what the search visits."""
        query = checked_query(query, k, self._dim)
        ends = cuts(int(effort), even_shares(MOST_STAGES) if shares is None else tuple(shares))
        # plain ints, because numba would compile the kernels again for numpy's
        return self._stages(query, int(k), int(effort), ends, log)

    def _stages(
        self, query: np.ndarray, k: int, effort: int, ends: tuple[int, ...], log: VisitLog | None
    ) -> Iterator[Stage]:
        if not self._count:
            worst = np.finfo(np.float32).max
            yield Stage(np.full(k, -1), np.full(k, worst if self._squared else -worst, np.float32), True, 0)
            return
        pool = np.empty(min(max(effort, k), self._count), np.int64)
        state = np.zeros(hnsw_kernel.STATE, np.int64)
        visits, hops = self._no_log if log is None else log._begin(self._most_visits, state)
        graph = (query, self._vectors, self._squared, self._neighbours, self._offsets, self._spans)
        seen, state[hnsw_kernel.STAMP] = self._borrow()
        try:
            hnsw_kernel.start(*graph, self._entry_point, seen, pool, state, visits, hops)
            spent = 0
            for end in ends:
                budget = _UNLIMITED if end == ends[-1] else end - spent
                spent += hnsw_kernel.advance(*graph, seen, pool, state, budget, visits, hops)
                done = bool(state[hnsw_kernel.CURSOR] == state[hnsw_kernel.SIZE])
                ids, scores = hnsw_kernel.best(pool, state, self._squared, k)
                yield Stage(ids, scores, done, spent)
                if done:
                    return
        finally:
            self._seen.append((seen, int(state[hnsw_kernel.STAMP])))

    def _borrow(self) -> tuple[np.ndarray, int]:
        """A table of stamps that no other search uses, and the last stamp in it."""
        try:
            seen, stamp = self._seen.pop()
        except IndexError:
            return np.zeros(self._count, np.int32), 0
        if stamp > _LAST_STAMP - len(self._spans):  # a search takes one stamp for each level
            seen.fill(0)
            stamp = 0
        return seen, stamp


def _view(pointer: Any, length: int, dtype: type) -> np.ndarray:
    """FAISS's own memory as an array; its owner must outlive the view."""
    if not length:
        return np.empty(0, dtype)
    return faiss.rev_swig_ptr(pointer, length).view(dtype)
