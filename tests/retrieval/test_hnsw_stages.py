"""HNSW stages: equal to a naive traversal of the same graph, no worse than FAISS, and exact records of their visits."""

import heapq
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.bench_search import clustered
from retrieval import hnsw_kernel
from retrieval.errors import SearchError
from retrieval.hnsw_stages import HNSWStages, VisitLog
from retrieval.ivf_stages import IVFStages
from retrieval.staged_search import FlatStages, Stage, StagedSearch, even_shares
from tests.props.budget import examples

METRICS = [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2]
COUNT, DIM, QUERIES = 20_000, 48, 150


@cache
def vectors(kind: str) -> tuple[np.ndarray, np.ndarray]:
    if kind == "clustered":
        return clustered(COUNT, DIM, QUERIES)
    random = np.random.default_rng(1)
    return (
        random.standard_normal((COUNT, DIM), dtype=np.float32),
        random.standard_normal((QUERIES, DIM), dtype=np.float32),
    )


@cache
def graph(kind: str, metric: int, neighbours: int) -> Any:
    index = faiss.IndexHNSWFlat(DIM, neighbours, metric)
    index.hnsw.efConstruction = 40
    index.add(vectors(kind)[0])
    return index


def small(values: np.ndarray, metric: int, neighbours: int = 4, seed: int = 0) -> Any:
    index = faiss.IndexHNSWFlat(values.shape[1], neighbours, metric)
    index.hnsw.rng = faiss.RandomGenerator(seed)
    faiss.omp_set_num_threads(1)
    index.add(np.ascontiguousarray(values, np.float32))
    return index


def last(stages: Iterator[Stage]) -> Stage:
    *_, stage = stages
    return stage


class Links:
    """The neighbour lists of an index."""

    def __init__(self, index: Any) -> None:
        self._neighbours = faiss.vector_to_array(index.hnsw.neighbors).tolist()
        self._offsets = faiss.vector_to_array(index.hnsw.offsets).tolist()
        self._levels = faiss.vector_to_array(index.hnsw.cum_nneighbor_per_level).tolist()

    def of(self, vertex: int, level: int) -> list[int]:
        first = self._offsets[vertex]
        links = self._neighbours[first + self._levels[level] : first + self._levels[level + 1]]
        return links[: links.index(-1)] if -1 in links else links


class Naive:
    """The same search as a textbook has it: two heaps, Python, one vertex at a time."""

    def __init__(self, index: Any, query: np.ndarray, k: int, ef: int) -> None:
        values = faiss.rev_swig_ptr(faiss.downcast_index(index.storage).get_xb(), index.ntotal * index.d)
        self._links, self._index, self._query = Links(index), index, query
        self._values = values.reshape(index.ntotal, index.d)
        self.visits: list[tuple[int, int]] = []
        self.hops: list[tuple[int, int]] = []
        nearest = self._visit(index.hnsw.entry_point, index.hnsw.max_level)
        for level in range(index.hnsw.max_level, 0, -1):
            nearest = self._descend(nearest, level)
        self.best = self._search(nearest, max(k, ef))[:k]

    def _visit(self, vertex: int, level: int) -> tuple[float, int]:
        self.visits.append((vertex, level))
        row = self._values[vertex]
        if self._index.metric_type == faiss.METRIC_L2:
            return float(((row - self._query) ** 2).sum()), vertex
        return -float(row @ self._query), vertex

    def _descend(self, nearest: tuple[float, int], level: int) -> tuple[float, int]:
        seen = {nearest[1]}
        while True:
            before = nearest
            self.hops.append((before[1], level))
            for vertex in self._links.of(before[1], level):
                if vertex not in seen:
                    seen.add(vertex)
                    visited = self._visit(vertex, level)
                    if visited[0] < nearest[0]:
                        nearest = visited
            if nearest == before:
                return nearest

    def _search(self, start: tuple[float, int], ef: int) -> list[tuple[float, int]]:
        seen, candidates, results = {start[1]}, [start], [start]
        while candidates:
            nearest = heapq.heappop(candidates)
            if len(results) == ef and nearest > results[-1]:
                break
            self.hops.append((nearest[1], 0))
            for vertex in self._links.of(nearest[1], 0):
                if vertex in seen:
                    continue
                seen.add(vertex)
                visited = self._visit(vertex, 0)
                if len(results) < ef or visited < results[-1]:
                    heapq.heappush(candidates, visited)
                    results = sorted([*results, visited])[:ef]
        return results


@settings(max_examples=examples(80), deadline=None)
@given(
    count=st.integers(1, 120),
    dim=st.integers(1, 11),
    values=st.integers(1, 9),
    metric=st.sampled_from(METRICS),
    links=st.integers(2, 6),
    k=st.integers(1, 12),
    ef=st.integers(1, 40),
    stages=st.integers(1, 6),
    seed=st.integers(0, 10_000),
)
def test_equals_a_naive_traversal(
    count: int, dim: int, values: int, metric: int, links: int, k: int, ef: int, stages: int, seed: int
) -> None:
    """Small whole numbers, so that sums are exact in any order, and ties and duplicates are common."""
    random = np.random.default_rng(seed)
    index = small(random.integers(-values, values, size=(count, dim)), metric, links, seed + 1)
    query = random.integers(-values, values, size=dim).astype(np.float32)
    naive, log = Naive(index, query, k, ef), VisitLog()
    stage = last(HNSWStages(index).search(query, k, ef, even_shares(stages), log))
    best = [vertex for _, vertex in naive.best]
    assert stage.ids.tolist() == best + [-1] * (k - len(best))
    sign = 1 if metric == faiss.METRIC_L2 else -1
    worst = sign * float(np.finfo(np.float32).max)
    assert stage.scores.tolist() == [sign * distance for distance, _ in naive.best] + [worst] * (k - len(best))
    visits = log.visits()
    assert list(zip(visits.vertices.tolist(), visits.levels.tolist(), strict=True)) == naive.visits
    assert list(zip(visits.hops.tolist(), visits.hop_levels.tolist(), strict=True)) == naive.hops
    assert stage.effort == sum(level == 0 for _, level in naive.hops)


def recall(kind: str, metric: int, k: int, ids: np.ndarray) -> float:
    """Share of the results `ids` [queries, k] as good as the k-th best: of equally good vectors any will do."""
    rows, queries = vectors(kind)
    sign = 1 if metric == faiss.METRIC_INNER_PRODUCT else -1
    exact = sign * faiss.knn(queries, rows, k, metric=metric)[0]
    picked = rows[ids]  # [queries, k, dim]
    if metric == faiss.METRIC_INNER_PRODUCT:
        scores = np.einsum("qkd,qd->qk", picked, queries)
    else:
        scores = -((picked - queries[:, None]) ** 2).sum(axis=2)
    return float((scores >= exact[:, -1:] - 1e-5 * np.abs(exact[:, -1:])).mean())


@pytest.mark.parametrize(
    ("kind", "metric", "neighbours"),
    [
        ("clustered", faiss.METRIC_INNER_PRODUCT, 32),
        ("clustered", faiss.METRIC_L2, 8),
        ("random", faiss.METRIC_INNER_PRODUCT, 8),
        ("random", faiss.METRIC_L2, 16),
    ],
)
def test_recall_and_work_beside_faiss(kind: str, metric: int, neighbours: int) -> None:
    index, queries = graph(kind, metric, neighbours), vectors(kind)[1]
    staged, k = HNSWStages(index), 10
    faiss.omp_set_num_threads(1)
    seen = []
    for ef in (10, 16, 64, 200):
        faiss.cvar.hnsw_stats.reset()
        plain = index.search(queries, k, params=faiss.SearchParametersHNSW(efSearch=ef))[1]
        hops, distances = faiss.cvar.hnsw_stats.nhops, faiss.cvar.hnsw_stats.ndis
        ours, log, our_hops, our_distances = [], VisitLog(), 0, 0
        for query in queries:
            ours.append(last(staged.search(query, k, ef, log=log)).ids)
            our_hops += len(log.visits().hops)
            our_distances += len(log.visits().vertices)
        assert recall(kind, metric, k, np.array(ours)) >= recall(kind, metric, k, plain)
        assert our_hops == pytest.approx(hops, rel=0.01)
        assert our_distances <= 1.01 * (distances + len(queries))
        seen.append(recall(kind, metric, k, np.array(ours)))
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]


@pytest.mark.parametrize("kind", ["clustered", "random"])
def test_effort_is_cut_by_shares_and_bounded_by_ef(kind: str) -> None:
    staged = HNSWStages(graph(kind, faiss.METRIC_L2, 8 if kind == "clustered" else 16))
    for ef in (20, 64, 200):
        spent = []
        for query in vectors(kind)[1][:40]:
            stages = list(staged.search(query, 10, ef, even_shares(4)))
            assert [stage.effort for stage in stages[:-1]] == [ef // 4, ef // 2, ef * 3 // 4]
            spent.append(stages[-1].effort)
            assert [stage.done for stage in stages] == [False, False, False, True]
            # a result is only ever pushed down by a better one
            for before, after in pairwise(stages):
                assert (after.scores <= before.scores).all()
        # the whole pool is expanded, and few vertices that were pushed out of it
        assert min(spent) >= ef
        assert np.mean(spent) <= 1.5 * ef


def test_stages_cut_the_same_traversal() -> None:
    """Whatever its cuts and its thread, a search ends alike and visits the same vertices in the same order."""
    index, queries = graph("clustered", faiss.METRIC_INNER_PRODUCT, 32), vectors("clustered")[1]
    staged = HNSWStages(index)
    expected, log = [], VisitLog()
    for query in queries[:30]:
        stage = last(staged.search(query, 5, 64, (1.0,), log))
        expected.append((stage.ids.tolist(), stage.scores.tolist(), stage.effort, log.visits().vertices.tolist()))
    wrong: list[object] = []

    def work(stages: int) -> None:
        own = VisitLog()
        for query, want in zip(queries, expected, strict=False):
            stage = last(staged.search(query, 5, 64, even_shares(stages), own))
            if (stage.ids.tolist(), stage.scores.tolist(), stage.effort, own.visits().vertices.tolist()) != want:
                wrong.append(stage)

    threads = [threading.Thread(target=work, args=(stages,)) for stages in (1, 2, 7, 64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(staged._seen) <= 4


@pytest.mark.parametrize("metric", METRICS)
def test_recorded_visits_are_a_walk_on_the_graph(metric: int) -> None:
    neighbours = 32 if metric == faiss.METRIC_INNER_PRODUCT else 8
    index = graph("clustered", metric, neighbours)
    staged, log, links = HNSWStages(index), VisitLog(), Links(index)
    for query in vectors("clustered")[1][:10]:
        stage = last(staged.search(query, 10, 64, log=log))
        walk = log.visits()
        assert set(stage.ids) <= set(walk.vertices.tolist())
        for level in range(index.hnsw.max_level + 1):
            assert len(set(walk.vertices[walk.levels == level])) == (walk.levels == level).sum()
        lowest = walk.hops[walk.hop_levels == 0]
        assert len(set(lowest.tolist())) == len(lowest) == stage.effort
        assert (np.diff(walk.hop_levels) <= 0).all()
        assert walk.vertices[0] == index.hnsw.entry_point
        assert walk.ends[-1] == len(walk.vertices)
        for hop, (begin, end) in enumerate(zip([1, *walk.ends], walk.ends, strict=False)):
            assert walk.hops[hop] in walk.vertices[:begin]
            assert (walk.levels[begin:end] == walk.hop_levels[hop]).all()
            listed = links.of(walk.hops[hop], walk.hop_levels[hop])
            assert set(walk.vertices[begin:end].tolist()) <= set(listed)


def test_a_log_shows_the_walk_so_far() -> None:
    staged, log = HNSWStages(graph("clustered", faiss.METRIC_L2, 8)), VisitLog()
    assert len(log.visits().vertices) == 0
    lengths = []
    stages = staged.search(vectors("clustered")[1][0], 5, 60, even_shares(3), log)
    for _ in range(2):
        effort = next(stages).effort
        assert (log.visits().hop_levels == 0).sum() == effort
        lengths.append(len(log.visits().vertices))
    assert lengths[0] < lengths[1]


def test_fewer_found_than_asked_for() -> None:
    values = np.arange(12, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    for metric in METRICS:
        index = small(values, metric)
        stage = last(HNSWStages(index).search(values[3], 20, 4))
        assert sorted(stage.ids[:12]) == list(range(12))
        assert (stage.ids[12:] == -1).all()
        scores, ids = index.search(values[3:4], 20)
        np.testing.assert_array_equal(stage.ids == -1, ids[0] == -1)
        np.testing.assert_array_equal(stage.scores[12:], scores[0][12:])
        empty = faiss.IndexHNSWFlat(3, 4, metric)
        stage = last(HNSWStages(empty).search(values[3], 2, 4))
        np.testing.assert_array_equal(stage.ids, [-1, -1])
        np.testing.assert_array_equal(stage.scores, scores[0][-2:])
        assert stage.done


def test_equal_vectors_have_equal_scores_and_come_by_row() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((7, 37), dtype=np.float32)[random.integers(7, size=60)]
    for metric in METRICS:
        stage = last(HNSWStages(small(rows, metric, 16)).search(random.standard_normal(37, dtype=np.float32), 60, 60))
        ids = stage.ids[stage.ids >= 0]
        assert len(ids) > 40
        for value in np.unique(stage.scores[: len(ids)]):
            group = ids[stage.scores[: len(ids)] == value]
            assert group.tolist() == sorted(group)
            assert len(np.unique(rows[group], axis=0)) == 1


def test_an_abandoned_search_gives_its_memory_back() -> None:
    staged, query = HNSWStages(graph("random", faiss.METRIC_L2, 16)), vectors("random")[1][0]
    want = last(staged.search(query, 5, 64))
    for _ in range(20):
        stages = staged.search(query, 5, 64)
        next(stages)
        del stages
        assert len(staged._seen) == 1
    np.testing.assert_array_equal(last(staged.search(query, 5, 64)).ids, want.ids)


def test_stamps_start_anew_before_they_overflow() -> None:
    staged, query = HNSWStages(graph("random", faiss.METRIC_L2, 16)), vectors("random")[1][0]
    want = last(staged.search(query, 5, 64)).ids
    seen, _ = staged._seen.pop()
    most = np.iinfo(np.int32).max
    for stamp in range(most - 12, most + 1):
        seen.fill(most)  # all vertices look seen to a search that takes the last stamp
        staged._seen = [(seen, stamp)]
        if stamp + len(staged._spans) > most:
            np.testing.assert_array_equal(last(staged.search(query, 5, 64)).ids, want)
            assert staged._seen[0][1] <= len(staged._spans)


def test_nothing_is_compiled_after_opening() -> None:
    kernels = [hnsw_kernel.start, hnsw_kernel.advance, hnsw_kernel.best]
    for metric in METRICS:
        staged = HNSWStages(small(np.eye(9), metric))
        before = [len(each.signatures) for each in kernels]
        list(staged.search([1.0] * 9, 3, 5))  # type: ignore[arg-type]
        list(staged.search(np.ones(9, np.float64), np.int32(3), 5, log=VisitLog()))
        assert [len(each.signatures) for each in kernels] == before == [1, 1, 1]


def test_wrong_arguments_are_refused_before_any_stage() -> None:
    staged = HNSWStages(small(np.eye(9), faiss.METRIC_L2))
    query = np.ones(9, np.float32)
    for wrong, words in [((query, 0, 4), "k is 0"), ((query[:8], 1, 4), r"shape \[8\]"), ((query, 1, 0), "effort is")]:
        with pytest.raises(SearchError, match=words):
            staged.search(*wrong)
    with pytest.raises(SearchError, match="must rise"):
        staged.search(query, 1, 4, (0.5, 0.2, 1.0))


@pytest.mark.timing
def test_other_threads_run_while_it_searches() -> None:
    """Counts ticks of this thread within a stage of another: were the GIL held, for up to 10 s, there would be none."""
    rows, queries = vectors("random")
    flat = faiss.IndexFlatL2(DIM)
    flat.add(rows)
    lists = faiss.IndexIVFFlat(faiss.IndexFlatL2(DIM), DIM, 20, faiss.METRIC_L2)
    lists.train(rows[:2000])
    lists.add(rows)
    searches: list[tuple[StagedSearch, int]] = [
        (HNSWStages(graph("random", faiss.METRIC_L2, 16)), 3000),
        (IVFStages(lists), 20),
        (FlatStages(flat), 1),
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)
    try:
        for staged, effort in searches:
            within: list[tuple[float, float]] = []

            def work(staged: StagedSearch = staged, effort: int = effort, within: Any = within) -> None:
                for query in queries[:30]:
                    stages = staged.search(query, 5, effort, (1.0,))
                    begin = time.perf_counter()
                    next(stages)
                    within.append((begin, time.perf_counter()))

            counted = 0
            for _ in range(20):  # a search may be so short, or a core so busy, that few ticks fall within a round
                ticks, thread = [], threading.Thread(target=work)
                within.clear()
                thread.start()
                while thread.is_alive():
                    time.sleep(0)  # lets the other thread have the GIL
                    ticks.append(time.perf_counter())
                thread.join()
                counted += sum(begin < tick < end for begin, end in within for tick in ticks)
                if counted >= 10:
                    break
            assert counted >= 10, f"{staged}: {counted} ticks"
    finally:
        sys.setswitchinterval(interval)
