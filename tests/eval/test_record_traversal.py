"""Recorded traversals: they name what the index holds, find what FAISS finds, and run through `pimsim search`."""

import json
from functools import cache

import faiss
import numpy as np
import pytest

from eval.record_traversal import main, record
from pimsim import DimmDevice, simulate_search
from pimsim.cli import main as pimsim
from pimsim.dimm_pim.traversal import LOWEST, NO_LIST, UPPER, Traversal
from retrieval.corpus import Document, write_corpus

pytestmark = pytest.mark.xdist_group("pimsim")  # whose kernels are compiled once
COUNT, DIM = 3000, 24


@cache
def material():
    random = np.random.default_rng(7)
    vectors = random.standard_normal((COUNT, DIM)).astype(np.float32)
    index = faiss.IndexHNSWFlat(DIM, 8, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    return index, random.standard_normal((40, DIM)).astype(np.float32)


@cache
def recording():
    return record(*material(), ef=64, k=10)


def test_it_finds_what_faiss_finds():
    assert recording().agreement >= 0.95


def test_each_hop_reads_a_list_and_then_its_new_vertices():
    index, _ = material()
    path = recording().traversal
    neighbours = faiss.vector_to_array(index.hnsw.neighbors)
    offsets = faiss.vector_to_array(index.hnsw.offsets).astype(int)
    spans = faiss.vector_to_array(index.hnsw.cum_nneighbor_per_level).astype(int)
    assert (path.shard, path.dim, path.neighbours) == (COUNT, DIM, 8)
    for query in range(len(path.queries)):
        first, end = path.first_hop[query], path.first_hop[query + 1]
        assert path.list_kind[first] == NO_LIST
        assert path.vertices[path.first_vector[first] : path.first_vector[first + 1]].tolist() == [
            index.hnsw.entry_point
        ]
        on_lowest = []
        for hop in range(first + 1, end):
            vertex, kind = path.list_vertex[hop], path.list_kind[hop]
            assert kind in (LOWEST, UPPER)
            begin = offsets[vertex]
            listed = neighbours[begin : begin + spans[1]] if kind == LOWEST else neighbours[begin + spans[1] :]
            compared = path.vertices[path.first_vector[hop] : path.first_vector[hop + 1]].tolist()
            assert set(compared) <= set(listed.tolist())
            if kind == LOWEST:
                on_lowest += compared
        assert len(on_lowest) == len(set(on_lowest)) > 64


def test_ranks_tell_the_results_and_when_each_was_met():
    index, queries = material()
    path = recording().traversal
    met = path.met(64)
    assert met.shape == (40, 64)
    results = index.search(queries, 10, params=faiss.SearchParametersHNSW(efSearch=64))[1]
    agree = 0
    for query in range(len(queries)):
        first, end = path.first_vector[path.first_hop[[query, query + 1]]]
        ranks, vertices = path.ranks[first:end], path.vertices[first:end]
        assert sorted(ranks[ranks >= 0].tolist()) == list(range(64))
        by_rank = vertices[ranks >= 0][np.argsort(ranks[ranks >= 0])]
        agree += by_rank[:10].tolist() == results[query].tolist()
        position = first + int(np.flatnonzero(ranks == 3)[0])
        hops = path.first_hop[query + 1] - path.first_hop[query]
        hop = np.searchsorted(path.first_vector, position, side="right") - path.first_hop[query]
        assert met[query, 3] == hop / hops
    assert agree >= 38
    assert met.max() <= 1


def test_more_effort_reads_more():
    few = record(*material(), ef=16, k=4).traversal
    assert len(few.vertices) < len(recording().traversal.vertices)


def test_it_survives_its_file_and_runs(tmp_path):
    path = tmp_path / "traversal.csv.gz"
    recording().traversal.write(path)
    again = Traversal.read(path)
    assert np.array_equal(again.vertices, recording().traversal.vertices)
    assert np.array_equal(again.ranks, recording().traversal.ranks)
    result = simulate_search(again, DimmDevice.load(changes={"vectors.dim": DIM}))
    assert result.as_dict()["distances"] == len(again.vertices)
    assert result.queries_per_second > 0


@pytest.mark.real
def test_documents_and_questions_become_a_traversal(tmp_path, capsys):
    folder = tmp_path / "medrag"
    folder.mkdir()
    words = ["heart", "lung", "liver", "bone", "skin", "eye", "ear", "blood", "nerve", "tooth", "kidney", "muscle"]
    write_corpus(
        folder / "docs.jsonl.gz",
        (Document(str(i), f"{one} {two}", f"What ails the {one} and the {two}.") for i, (one, two) in enumerate(
            (one, two) for one in words for two in words)),
    )  # fmt: skip
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"id": word, "question": f"My {word} aches"}) + "\n" for word in words))
    out = tmp_path / "out.csv.gz"
    options = ["--data", str(tmp_path), "--questions", str(questions), "--count", "6", "--ef", "32", "--out", str(out)]
    assert main(options) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["queries"], summary["vertices"], summary["dim"]) == (6, 144, 384)
    assert pimsim(["search", "--traversal", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dim"] == 384


def test_a_flat_index_has_no_traversal(tmp_path, capsys):
    flat = faiss.IndexFlatIP(4)
    flat.add(np.eye(4, dtype=np.float32))
    faiss.write_index(flat, str(tmp_path / "flat.idx"))
    options = ["--questions", str(tmp_path / "none"), "--out", str(tmp_path / "out.csv")]
    assert main(["--index", str(tmp_path / "flat.idx"), *options]) == 2
    assert "only IndexHNSWFlat has a traversal" in capsys.readouterr().err
    assert main(["--index", str(tmp_path / "missing.idx"), *options]) == 2
    assert "FAISS cannot read it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--index", "a"], ["--data", "a", "--count", "0"], ["--data", "a", "--index", "b"]]
)
def test_options_that_do_not_go_together_are_refused(options, capsys):
    with pytest.raises(SystemExit):
        main([*options, "--out", "out.csv"])
    assert "error" in capsys.readouterr().err
