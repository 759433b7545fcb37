"""IVF stages: a search that scans its inverted lists slice by slice, the nearest lists first."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import faiss
import numpy as np

from retrieval.compiled import kernel
from retrieval.staged_search import MOST_STAGES, Stage, checked_query, cuts, even_shares

SLICE_BYTES = 3 << 19  # of vectors in a slice, at least: a stage then costs a fifteenth of scanning them
_WORST = np.finfo(np.float32).max
_MOST_KINDS = 32  # of searches (k and cuts) whose workspaces are kept for the next of their kind
_SHORT = 64  # results, up to which sorting by insertion is fastest


class IVFStages:
    """Searches an IndexIVFFlat of either metric. Effort is `nprobe`, in lists.

    Without shares the stages are of equal effort, and there are as many, up to MOST_STAGES, as give each one
    SLICE_BYTES of vectors.

    Each stage equals `index.search` with its effort as `nprobe`, in ids, order and scores, bit for bit, ties included.
    FAISS scans the lists. One heap goes from slice to slice, because which of equally good vectors it keeps depends on
    all vectors before them: merging the top-k of each slice could differ from one search.
    """

    def __init__(self, index: Any) -> None:
        self._index = index  # owns the lists
        self._similarity = index.metric_type == faiss.METRIC_INNER_PRODUCT
        self._worst = -_WORST if self._similarity else _WORST
        # a second index over the same lists: the mode belongs to an index, and plain searches need the other one
        lists: Any = faiss.IndexIVFFlat(index.quantizer, index.d, index.nlist, index.metric_type)
        lists.replace_invlists(index.invlists, False)
        lists.parallel_mode = index.PARALLEL_MODE_NO_HEAP_INIT  # continues with the given heap
        # looked up once, because through FAISS's bindings each look-up takes a microsecond
        self._dim, self._nlist = index.d, index.nlist
        self._bytes_per_list = index.ntotal * index.code_size / index.nlist
        self._rank_lists = index.quantizer.search_c
        self._scan = lists.search_preassigned_c
        self._free: dict[tuple[int, tuple[int, ...]], list[_Workspace]] = {}
        # compiles, so that no later call waits for it
        _inserted(np.zeros(1, np.float32), np.zeros(1, np.int64), self._similarity)

    def search(self, query: np.ndarray, k: int, effort: int, shares: Sequence[float] | None = None) -> Iterator[Stage]:
        """As `StagedSearch.search`, with `effort` the number of lists to probe, at most all of them."""
        query = checked_query(query, k, self._dim)
        nprobe = min(effort, self._nlist)
        if shares is None:
            slices = int(nprobe * self._bytes_per_list / SLICE_BYTES)
            shares = even_shares(min(max(slices, 1), MOST_STAGES))
        return self._stages(query, k, cuts(nprobe, tuple(shares)))

    def _stages(self, query: np.ndarray, k: int, ends: tuple[int, ...]) -> Iterator[Stage]:
        if len(self._free) >= _MOST_KINDS:
            self._free.clear()
        free = self._free.setdefault((k, ends), [])
        try:
            work = free.pop()
        except IndexError:
            work = _Workspace(k, ends)
        try:
            pointer = faiss.swig_ptr(query)
            faiss.omp_set_num_threads(1)
            self._rank_lists(1, pointer, ends[-1], *work.nearest_lists)
            work.scores.fill(self._worst)  # an empty heap
            work.ids.fill(-1)
            before = b""
            last = ends[-1]
            for end, lists, to_lists, probing in work.slices:
                self._scan(1, pointer, k, lists, to_lists, *work.heap, False, probing)
                # most slices find nothing better, and a vector that enters the heap changes its scores
                now = work.scores.tobytes()
                if now != before:
                    ids, scores = _ordered(work.scores, work.ids, self._similarity)
                    before = now
                yield Stage(ids, scores, end == last, end)
        finally:
            free.append(work)


class _Workspace:
    """Memory of one search and pointers to it, kept for later searches: creating it costs as much as a short list."""

    def __init__(self, k: int, ends: tuple[int, ...]) -> None:
        pointer = faiss.swig_ptr
        self.scores, self.ids = np.empty(k, np.float32), np.empty(k, np.int64)
        self.heap = pointer(self.scores), pointer(self.ids)
        self._to_lists, self._lists = np.empty(ends[-1], np.float32), np.empty(ends[-1], np.int64)
        self.nearest_lists = pointer(self._to_lists), pointer(self._lists)
        self.slices = [
            (end, pointer(self._lists[begin:]), pointer(self._to_lists[begin:]), _probing(end - begin))
            for begin, end in pairwise((0, *ends))
        ]


def _probing(count: int) -> Any:
    return faiss.SearchParametersIVF(nprobe=count)  # type: ignore[call-arg]


def _ordered(scores: np.ndarray, ids: np.ndarray, similarity: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids and scores of a FAISS heap, best first.

    Of equal scores, the higher id comes first for similarities and the lower for distances, as FAISS has it.
    """
    if len(ids) <= _SHORT:
        return _inserted(scores, ids, similarity)
    sign = -1 if similarity else 1
    # places never filled hold the worst score already, and come last
    order = np.lexsort((sign * ids, sign * scores, ids < 0))
    return ids[order], scores[order]


@kernel
def _inserted(scores: Any, ids: Any, similarity: Any) -> Any:
    """`_ordered` by insertion: for a few results, numpy's sort takes several times as long."""
    ordered_scores, ordered_ids = scores.copy(), ids.copy()
    count = 0
    for index in range(ids.shape[0]):
        score, id_ = scores[index], ids[index]
        if id_ < 0:
            continue
        place = count
        while place > 0:
            before, before_id = ordered_scores[place - 1], ordered_ids[place - 1]
            if before == score:
                stays = before_id > id_ if similarity else before_id < id_
            else:
                stays = before > score if similarity else before < score
            if stays:
                break
            ordered_scores[place], ordered_ids[place] = before, before_id
            place -= 1
        ordered_scores[place], ordered_ids[place] = score, id_
        count += 1
    ordered_ids[count:] = -1
    ordered_scores[count:] = -_WORST if similarity else _WORST
    return ordered_ids, ordered_scores
