"""IVF stages: a search that probes its inverted lists slice by slice, the nearest lists first."""

from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np

from retrieval.compiled import kernel, warm_up
from retrieval.staged import DEFAULT_SHARES, Stage, checked_query, cuts

_WORST = np.finfo(np.float32).max
_SHORT = 64  # results that sorting by insertion is best for


class IVFStages:
    """Searches an IndexIVFFlat of either metric. Effort is `nprobe`, in lists.

    The last stage equals `index.search` with that `nprobe`: ids, order and scores, bit for bit, ties included; each
    stage equals the search with its own effort. FAISS scans the lists. One heap goes from slice to slice, because
    which of equally good vectors it keeps depends on all that came before them: top-k lists of slices, merged, could
    differ from one search.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self._similarity = index.metric_type == faiss.METRIC_INNER_PRODUCT
        self._worst = -_WORST if self._similarity else _WORST
        # a second index over the same lists, because the mode is the index's and plain searches need the other
        self._lists: Any = faiss.IndexIVFFlat(index.quantizer, index.d, index.nlist, index.metric_type)
        self._lists.replace_invlists(index.invlists, False)
        self._lists.parallel_mode = index.PARALLEL_MODE_NO_HEAP_INIT  # go on with the heap that it is given
        self._probes: dict[int, Any] = {}  # FAISS's parameters to probe so many lists: slow to make, never changed
        warm_up(lambda: _ordered(np.zeros(1, np.float32), np.zeros(1, np.int64), self._similarity))

    def search(
        self, query: np.ndarray, k: int, effort: int, shares: Sequence[float] = DEFAULT_SHARES
    ) -> Iterator[Stage]:
        query = checked_query(query, k, self._index.d)
        return self._stages(query, k, cuts(min(effort, self._index.nlist), tuple(shares)))

    def _stages(self, query: np.ndarray, k: int, ends: tuple[int, ...]) -> Iterator[Stage]:
        faiss.omp_set_num_threads(1)
        nprobe, pointer = ends[-1], faiss.swig_ptr
        to_lists, lists = np.empty(nprobe, np.float32), np.empty(nprobe, np.int64)
        self._index.quantizer.search_c(1, pointer(query), nprobe, pointer(to_lists), pointer(lists))
        scores, ids = np.full(k, self._worst, np.float32), np.full(k, -1)  # an empty heap
        begin = 0
        for end in ends:
            faiss.omp_set_num_threads(1)  # kept per thread, and each stage may be asked for by another
            self._lists.search_preassigned_c(
                1,
                pointer(query),
                k,
                pointer(lists[begin:end]),
                pointer(to_lists[begin:end]),
                pointer(scores),
                pointer(ids),
                False,
                self._probing(end - begin),
            )
            yield Stage(*self._as_faiss_orders(scores, ids), end == nprobe, end)
            begin = end

    def _as_faiss_orders(self, scores: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and scores of a heap: best first, of equals the higher id by similarity, the lower by distance."""
        if len(ids) <= _SHORT:
            return _ordered(scores, ids, self._similarity)
        sign = -1 if self._similarity else 1
        # what was not found is worst already; among as bad scores, and below, it comes last
        order = np.lexsort((sign * ids, sign * scores, ids < 0))
        return ids[order], scores[order]

    def _probing(self, count: int) -> Any:
        found = self._probes.get(count)
        if found is None:
            found = self._probes[count] = faiss.SearchParametersIVF(nprobe=count)  # type: ignore[call-arg]
        return found


@kernel
def _ordered(scores: Any, ids: Any, similarity: Any) -> Any:
    """`IVFStages._as_faiss_orders` for a few, by insertion: numpy's sort would take longer than a slice's share."""
    ordered_scores, ordered_ids = scores.copy(), ids.copy()
    found = 0
    for at in range(ids.shape[0]):
        score, id_ = scores[at], ids[at]
        if id_ < 0:
            continue
        place = found
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
        found += 1
    ordered_ids[found:] = -1
    ordered_scores[found:] = -_WORST if similarity else _WORST
    return ordered_ids, ordered_scores
