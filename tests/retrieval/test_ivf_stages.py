"""IVF stages: each one equals FAISS's own search of as many lists, bit for bit, whatever the data."""

import threading
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import SearchError
from retrieval.ivf_stages import IVFStages
from retrieval.staged_search import FlatStages, Stage, cuts, even_shares
from tests.props.budget import examples

METRICS = [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    faiss.omp_set_num_threads(1)


def ivf(vectors: np.ndarray, centres: np.ndarray, metric: int) -> Any:
    """An index with these centres, so that the test chooses its lists, empty ones included."""
    dim = vectors.shape[1]
    quantizer = faiss.IndexFlatIP(dim) if metric == faiss.METRIC_INNER_PRODUCT else faiss.IndexFlatL2(dim)
    quantizer.add(centres)
    index = faiss.IndexIVFFlat(quantizer, dim, len(centres), metric)
    index.add(vectors)
    return index


def data(kind: str, seed: int, count: int = 600, dim: int = 16) -> np.ndarray:
    random = np.random.default_rng(seed)
    if kind == "random":
        return random.standard_normal((count, dim), dtype=np.float32)
    if kind == "duplicates":  # each vector about 12 times, over all lists' borders
        return random.standard_normal((count // 12, dim), dtype=np.float32)[random.integers(count // 12, size=count)]
    if kind == "few values":  # many different vectors with equal scores
        return random.integers(-1, 2, size=(count, dim)).astype(np.float32)
    assert kind == "equal"
    return np.ones((count, dim), np.float32)


KINDS = ["random", "duplicates", "few values", "equal"]


def plain(index: Any, query: np.ndarray, k: int, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
    scores, ids = index.search(query[None], k, params=faiss.SearchParametersIVF(nprobe=nprobe))
    return ids[0], scores[0]


def assert_equal(stage: Stage, expected: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(stage.ids, expected[0])
    np.testing.assert_array_equal(stage.scores, expected[1])
    assert stage.ids.dtype == np.int64
    assert stage.scores.dtype == np.float32


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3, 10, 64, 65, 700])
def test_every_stage_equals_a_search_of_its_effort(metric: int, kind: str, k: int) -> None:
    """With k 700 of 600 vectors, and with few lists probed, there are fewer than k results, and -1 pads them."""
    for seed in range(4):
        vectors = data(kind, seed)
        index = ivf(vectors, data("random", seed + 100, count=12), metric)
        staged = IVFStages(index)
        queries = [*data("random", seed + 200, count=3), *data("few values", seed, count=2), vectors[7]]
        for query in queries:
            for nprobe in range(1, 13):
                stages = list(staged.search(query, k, nprobe, even_shares(1 + nprobe % 5)))
                assert [stage.done for stage in stages] == [False] * (len(stages) - 1) + [True]
                assert stages[-1].effort == nprobe
                for stage in stages:
                    assert_equal(stage, plain(index, query, k, stage.effort))


@settings(max_examples=examples(60), deadline=None)
@given(
    values=st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=40),
    centres=st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=8),
    query=st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
    k=st.integers(1, 12),
    metric=st.sampled_from(METRICS),
)
def test_ties_break_as_in_one_search(
    values: list[tuple[int, int]], centres: list[tuple[int, int]], query: tuple[int, int], k: int, metric: int
) -> None:
    index = ivf(np.array(values, np.float32), np.array(centres, np.float32), metric)
    stages = list(IVFStages(index).search(np.array(query, np.float32), k, len(centres), even_shares(len(centres))))
    assert_equal(stages[-1], plain(index, np.array(query, np.float32), k, len(centres)))


@pytest.mark.parametrize("metric", METRICS)
def test_each_stage_is_the_exact_top_k_of_the_lists_probed(metric: int) -> None:
    vectors, centres = data("random", 1), data("random", 2, count=10)
    index = ivf(vectors, centres, metric)
    lists = index.invlists
    members = [faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number)) for number in range(10)]
    for query in data("random", 3, count=5):
        order = index.quantizer.search(query[None], 10)[1][0]
        for stage in IVFStages(index).search(query, 8, 10, even_shares(10)):
            rows = np.concatenate([members[number] for number in order[: stage.effort]])
            if metric == faiss.METRIC_L2:
                scores = ((vectors[rows] - query) ** 2).sum(axis=1)
                best = rows[np.argsort(scores)][:8]
            else:
                best = rows[np.argsort(-(vectors[rows] @ query))][:8]
            np.testing.assert_array_equal(stage.ids[: len(best)], best)
            assert (stage.ids[len(best) :] == -1).all()


def test_lists_that_are_empty_or_all_of_them() -> None:
    centres = data("random", 0, count=9)
    index = ivf(np.repeat(centres[:2], 3, axis=0), centres, faiss.METRIC_L2)
    assert sum(index.invlists.list_size(number) == 0 for number in range(9)) == 7
    for stage in IVFStages(index).search(centres[4], 4, 9, even_shares(9)):
        assert_equal(stage, plain(index, centres[4], 4, stage.effort))
    index.reset()
    (stage,) = IVFStages(index).search(centres[4], 2, 9, (1.0,))
    assert_equal(stage, plain(index, centres[4], 2, 9))
    assert (stage.ids == -1).all()


def test_a_slice_is_worth_its_stage() -> None:
    """4,000 vectors of 64 bytes are 250 KiB, 25,600 of 256 dimensions 25 MiB."""
    for count, dim, stages in ((4_000, 16, 1), (25_600, 256, 4)):
        index = ivf(np.zeros((count, dim), np.float32), np.zeros((10, dim), np.float32), faiss.METRIC_L2)
        assert len(list(IVFStages(index).search(np.zeros(dim, np.float32), 1, 10))) == stages
        assert len(list(IVFStages(index).search(np.zeros(dim, np.float32), 1, 10, even_shares(5)))) == 5


def test_more_lists_than_there_are() -> None:
    index = ivf(data("random", 0), data("random", 1, count=5), faiss.METRIC_L2)
    *_, last = IVFStages(index).search(data("random", 2)[0], 3, 99)
    assert (last.effort, last.done) == (5, True)


def test_plain_searches_of_the_index_go_on_as_before() -> None:
    index = ivf(data("random", 0), data("random", 1, count=5), faiss.METRIC_INNER_PRODUCT)
    query = data("random", 2)[0]
    before = plain(index, query, 4, 3)
    stages = IVFStages(index).search(query, 4, 5, even_shares(5))
    next(stages)
    np.testing.assert_array_equal(plain(index, query, 4, 3), before)
    *_, last = stages
    assert_equal(last, plain(index, query, 4, 5))


def test_an_abandoned_search_disturbs_no_other() -> None:
    index = ivf(data("random", 0), data("random", 1, count=8), faiss.METRIC_INNER_PRODUCT)
    staged = IVFStages(index)
    first, second = data("random", 2, count=2)
    left = staged.search(first, 4, 8, even_shares(8))
    kept = next(left)
    ids = kept.ids.copy()
    between = staged.search(second, 4, 8, even_shares(8))
    next(between)
    left.close()  # type: ignore[attr-defined]
    for query in (first, second):
        *_, last = staged.search(query, 4, 8, even_shares(8))
        assert_equal(last, plain(index, query, 4, 8))
    *_, last = between
    assert_equal(last, plain(index, second, 4, 8))
    np.testing.assert_array_equal(kept.ids, ids)


def test_many_threads_search_one_index_with_different_efforts() -> None:
    index = ivf(data("random", 0, count=3000), data("random", 1, count=30), faiss.METRIC_INNER_PRODUCT)
    staged = IVFStages(index)
    queries = data("random", 2, count=40)
    wrong: list[int] = []

    def work(seed: int) -> None:
        faiss.omp_set_num_threads(1)
        for number, query in enumerate(queries):
            nprobe = 1 + (number * 7 + seed) % 30
            *_, last = staged.search(query, 5, nprobe, even_shares(1 + (number + seed) % 4))
            if not (last.ids == plain(index, query, 5, nprobe)[0]).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_workspaces_of_many_kinds_of_searches_are_not_all_kept() -> None:
    staged = IVFStages(ivf(data("random", 0), data("random", 1, count=8), faiss.METRIC_L2))
    for k in range(1, 300):
        list(staged.search(data("random", 2)[0], k, 8))
    assert len(staged._free) <= 32


def test_flat_indexes_have_one_exact_stage() -> None:
    for metric in METRICS:
        index = faiss.IndexFlat(16, metric)
        index.add(data("duplicates", 0))
        query = data("random", 1)[0]
        (stage,) = FlatStages(index).search(query, 700, 1, even_shares(4))
        scores, ids = index.search(query[None], 700)
        assert_equal(stage, (ids[0], scores[0]))
        assert (stage.done, stage.effort) == (True, 600)


@pytest.mark.parametrize(
    ("effort", "shares", "expected"),
    [
        (64, (0.25, 0.5, 0.75, 1.0), (16, 32, 48, 64)),
        (2, (0.25, 0.5, 0.75, 1.0), (1, 2)),
        (1, (0.1, 1.0), (1,)),
        (10, (1.0,), (10,)),
        (7, even_shares(7), (1, 2, 3, 4, 5, 6, 7)),
    ],
)
def test_cuts(effort: int, shares: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert cuts(effort, shares) == expected


def searches() -> Iterator[Any]:
    yield IVFStages(ivf(data("random", 0), data("random", 1, count=8), faiss.METRIC_L2))
    flat = faiss.IndexFlatIP(16)
    flat.add(data("random", 0))
    yield FlatStages(flat)


@pytest.mark.parametrize("staged", [*searches()])
def test_wrong_arguments_are_refused_before_any_stage(staged: Any) -> None:
    query = data("random", 2)[0]
    with pytest.raises(SearchError, match="k is 0"):
        staged.search(query, 0, 4)
    with pytest.raises(SearchError, match=r"shape \[15\], but the index needs \[16\]"):
        staged.search(query[:15], 1, 4)
    if isinstance(staged, IVFStages):
        with pytest.raises(SearchError, match="effort is 0"):
            staged.search(query, 1, 0)
        for shares in ((), (0.5,), (0.5, 0.5, 1.0), (0.6, 0.5, 1.0), (0.0, 1.0), (0.5, 1.5)):
            with pytest.raises(SearchError, match="must rise"):
                staged.search(query, 1, 4, shares)
    with pytest.raises(SearchError, match="0 stages"):
        even_shares(0)
