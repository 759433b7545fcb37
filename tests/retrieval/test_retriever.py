"""The retriever: its results on each type of index, and every misfit that it refuses to open."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from retrieval.corpus import Document, write_corpus
from retrieval.embedder import Embedder
from retrieval.errors import IndexFolderError, RetrievalError, SearchError, SearchFailed
from retrieval.index import build_index
from retrieval.retriever import Retriever
from tests.retrieval.conftest import documents

QUESTION = "copper violin number 12"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny: Embedder) -> Path:
    """A folder with the indexes flat, ivf and hnsw over 400 documents."""
    folder = tmp_path_factory.mktemp("indexes")
    write_corpus(folder / "corpus.jsonl", documents(400))
    for kind in ("flat", "ivf", "hnsw"):
        build_index(folder / "corpus.jsonl", folder / kind, kind, tiny, progress=False)
    return folder


@pytest.fixture
def flat(built: Path) -> Iterator[Retriever]:
    with Retriever.open(built / "flat") as retriever:
        yield retriever


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy of the flat index, to be spoilt."""
    return shutil.copytree(built / "flat", tmp_path / "index")


def test_flat_search_is_exact(flat: Retriever, tiny: Embedder) -> None:
    vectors = tiny.encode([tiny.passage(document) for document in documents(400)])
    scores = vectors @ tiny.encode([QUESTION])[0]
    hits = flat.search(QUESTION, 10)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:10], atol=1e-5)
    for hit in hits:
        assert hit.document == documents(400)[hit.row]
        assert scores[hit.row] == pytest.approx(hit.score, abs=1e-5)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_every_k_gives_k_different_documents_best_first(built: Path, kind: str) -> None:
    with Retriever.open(built / kind) as retriever:
        assert len(retriever) == 400
        for k in (1, 3, 65, 399, 400):
            hits = retriever.search(QUESTION, k)
            assert len({hit.row for hit in hits}) == k
            assert all(before.score >= after.score for before, after in itertools.pairwise(hits))
        assert retriever.search(QUESTION, 5) == retriever.search(QUESTION, 5)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_the_last_stage_is_what_search_gives(built: Path, kind: str, tiny: Embedder) -> None:
    with Retriever.open(built / kind) as retriever:
        for k in (1, 3, 64, 65, 399, 400):
            stages = list(retriever.search_stages(QUESTION, k))
            assert stages[-1].hits == retriever.search(QUESTION, k)
            assert [stage.done for stage in stages] == [False] * (len(stages) - 1) + [True]
            for stage in stages:
                assert len({hit.row for hit in stage.hits}) == len(stage.hits) <= k
                assert all(before.score >= after.score for before, after in itertools.pairwise(stage.hits))
                assert all(hit.document == documents(400)[hit.row] for hit in stage.hits)
        assert [*retriever.search_vector_stages(tiny.encode([QUESTION])[0], 400)] == stages


@pytest.mark.parametrize(("kind", "efforts"), [("flat", [400]), ("ivf", [4, 8]), ("hnsw", [32])])
def test_stages_are_cut_where_asked(built: Path, kind: str, efforts: list[int]) -> None:
    with Retriever.open(built / kind) as retriever:
        stages = list(retriever.search_stages(QUESTION, 3, (0.5, 1.0)))
        assert [stage.effort for stage in stages][: len(efforts)] == efforts
        assert len(stages) == (1 if kind == "flat" else 2)


def test_lists_are_probed_on_in_later_stages_when_too_few_are_found(built: Path) -> None:
    with Retriever.open(built / "ivf") as retriever:
        retriever.manifest.parameters["nprobe"] = 2
        *early, last = retriever.search_stages(QUESTION, 350, (0.5, 1.0))
        assert [stage.effort for stage in early] == [1]
        assert all(len(stage.hits) < 350 for stage in early)
        assert len(last.hits) == 350
        assert last.effort in {4, 8, 10}, "twice as many lists each time, at most all 10"
        assert last.hits == retriever.search(QUESTION, 350)


def test_a_search_left_alone_reads_no_more(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Retriever.open(built / "hnsw") as retriever:
        read: list[int] = []
        get = retriever.store.get
        monkeypatch.setattr(retriever.store, "get", lambda row, *_: (read.append(row), get(row))[1])
        stages = retriever.search_stages(QUESTION, 3)
        assert read == []
        first = next(stages)
        assert sorted(read) == sorted(hit.row for hit in first.hits)
        del stages
        assert len(read) == 3
        list(retriever.search_stages(QUESTION, 3))
        assert len(read) < 3 + 3 * 4, "a document found by several stages is read once"


def test_wrong_arguments_of_stages_are_refused_at_once(flat: Retriever) -> None:
    with pytest.raises(SearchError, match="k is 401"):
        flat.search_stages(QUESTION, 401)
    with pytest.raises(SearchError, match="the question is empty"):
        flat.search_stages(" ", 3)
    with pytest.raises(SearchError, match="must rise"):
        flat.search_stages(QUESTION, 3, (0.5, 0.25))
    with pytest.raises(SearchError, match="31 dimensions"):
        flat.search_vector_stages(np.zeros(31, dtype=np.float32), 3)


def test_stored_search_effort_is_set(built: Path) -> None:
    with Retriever.open(built / "ivf") as ivf, Retriever.open(built / "hnsw") as hnsw:
        assert (ivf.index.nlist, ivf.index.nprobe) == (10, 8)
        assert hnsw.index.hnsw.efSearch == 64


def test_ivf_probes_more_lists_when_too_few_are_found(built: Path) -> None:
    with Retriever.open(built / "ivf") as retriever:
        retriever.manifest.parameters["nprobe"] = 1
        assert len(retriever.search(QUESTION, 350)) == 350


def test_hnsw_falls_back_to_all_vectors_when_the_graph_is_cut(built: Path) -> None:
    with Retriever.open(built / "hnsw") as retriever:
        neighbours = faiss.vector_to_array(retriever.index.hnsw.neighbors)
        faiss.copy_array_to_vector(np.full_like(neighbours, -1), retriever.index.hnsw.neighbors)
        hits = retriever.search(QUESTION, 20)
    with Retriever.open(built / "flat") as exact:
        assert [hit.row for hit in hits] == [hit.row for hit in exact.search(QUESTION, 20)]


def test_equal_scores_come_by_row(tmp_path: Path, tiny: Embedder) -> None:
    corpus = tmp_path / "corpus.jsonl"
    write_corpus(corpus, [Document(f"d{n}", "", "the very same text") for n in range(9)])
    build_index(corpus, tmp_path / "index", "flat", tiny, progress=False)
    with Retriever.open(tmp_path / "index") as retriever:
        assert [hit.row for hit in retriever.search("text", 9)] == list(range(9))


def test_an_index_file_opens_like_its_folder(built: Path) -> None:
    with Retriever.open(built / "flat" / "faiss.idx") as retriever:
        assert len(retriever) == 400


def test_search_of_a_vector_equals_search_of_its_text(flat: Retriever, tiny: Embedder) -> None:
    assert flat.search_vector(tiny.encode([QUESTION])[0], 7) == flat.search(QUESTION, 7)


@pytest.mark.parametrize("k", [0, -1, 401])
def test_k_outside_its_limits(flat: Retriever, k: int) -> None:
    with pytest.raises(SearchError, match=f"k is {k}, but it must be from 1 to 400") as caught:
        flat.search(QUESTION, k)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, RetrievalError)


def test_empty_question_and_wrong_vector(flat: Retriever) -> None:
    with pytest.raises(SearchError, match="the question is empty"):
        flat.search(" \n", 3)
    with pytest.raises(SearchError, match="the vector has 31 dimensions, the index 32"):
        flat.search_vector(np.zeros(31, dtype=np.float32), 3)


@pytest.mark.parametrize("name", ["größe", os.fsdecode(b"gr\xf6\xdfe")], ids=["utf-8", "latin-1"])
@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_a_folder_may_have_a_name_in_any_encoding(tmp_path: Path, tiny: Embedder, name: str, kind: str) -> None:
    write_corpus(tmp_path / "corpus.jsonl", documents(60))
    build_index(tmp_path / "corpus.jsonl", tmp_path / name, kind, tiny, progress=False)
    with Retriever.open(tmp_path / name, loaded=tiny) as retriever:
        assert [hit.row for hit in retriever.search(tiny.passage(documents(60)[7]), 1)] == [7]


def refused(folder: Path, words: str, **options: str) -> None:
    with pytest.raises(IndexFolderError, match=words) as caught:
        Retriever.open(folder, **options)
    assert str(folder) in str(caught.value)


def without_digests(folder: Path) -> None:
    """Makes the manifest one of the time before it had digests of the files."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    del values["files"]
    path.write_text(json.dumps({**values, "format_version": 1}))


def test_missing_parts_are_refused(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", "no index folder")
    (folder / "faiss.idx").rename(tmp_path / "faiss.idx")
    refused(folder, r"faiss\.idx: this file of the index is missing")
    (tmp_path / "faiss.idx").rename(folder / "faiss.idx")
    shutil.move(folder / "documents.lmdb", tmp_path / "documents.lmdb")
    refused(folder, r"data\.mdb: this file of the index is missing")
    shutil.move(tmp_path / "documents.lmdb", folder / "documents.lmdb")
    (folder / "manifest.json").unlink()
    refused(folder, "no manifest")


def test_a_damaged_faiss_file_is_refused(folder: Path) -> None:
    (folder / "faiss.idx").write_bytes((folder / "faiss.idx").read_bytes()[:100])
    refused(folder, "damaged")
    (folder / "faiss.idx").write_bytes(b"nothing like FAISS")
    refused(folder, "damaged")


def test_a_faiss_file_of_another_index_is_refused(folder: Path, built: Path, tmp_path: Path, tiny: Embedder) -> None:
    without_digests(folder)
    shutil.copy(built / "ivf" / "faiss.idx", folder / "faiss.idx")
    refused(folder, "IndexIVFFlat, where the manifest says flat")
    write_corpus(tmp_path / "fewer.jsonl", documents(30))
    build_index(tmp_path / "fewer.jsonl", tmp_path / "fewer", "flat", tiny, progress=False)
    shutil.copy(tmp_path / "fewer" / "faiss.idx", folder / "faiss.idx")
    refused(folder, "30 vectors of 32 dimensions, where the manifest says 400")


def test_documents_of_another_corpus_are_refused(folder: Path, tmp_path: Path, tiny: Embedder) -> None:
    without_digests(folder)
    changed = [*documents(399), Document("doc-399", "", "was edited")]
    write_corpus(tmp_path / "changed.jsonl", changed)
    build_index(tmp_path / "changed.jsonl", tmp_path / "other", "flat", tiny, progress=False)
    shutil.rmtree(folder / "documents.lmdb")
    shutil.copytree(tmp_path / "other" / "documents.lmdb", folder / "documents.lmdb")
    refused(folder, "not those the manifest names")


def test_another_embedder_is_refused(folder: Path, embedder_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(embedder_folder, tmp_path / "other-model")
    (other / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    refused(folder, "is another model", embedder=str(other))
    refused(folder, "32 dimensions, embedder 'default' makes 384", embedder="default")
    same = shutil.copytree(embedder_folder, tmp_path / "moved-model")
    with Retriever.open(folder, embedder=str(same)) as retriever:
        assert retriever.search(QUESTION, 1)


def test_a_newer_manifest_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 3}))
    refused(folder, "newer")


def test_a_refusal_holds_no_files_open(folder: Path) -> None:
    refused(folder, "makes 384", embedder="default")
    with Retriever.open(folder) as retriever:
        assert len(retriever) == 400


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_a_search_that_fails_says_what_failed_and_the_next_is_a_new_one(built: Path, kind: str, monkeypatch) -> None:
    with Retriever.open(built / kind) as retriever:
        expected = retriever.search(QUESTION, 5)
        for part, name, doing in (
            (retriever.embedder, "encode", "embedding the question"),
            (retriever._staged, "search", "comparing vectors"),
            (retriever.store, "get", "reading document"),
        ):

            def broken(*_: object) -> object:
                raise MemoryError("none left")

            with monkeypatch.context() as patched:
                patched.setattr(type(part), name, broken)
                with pytest.raises(SearchFailed, match=f"{doing}.*MemoryError: none left") as caught:
                    retriever.search(QUESTION, 5)
                assert isinstance(caught.value.__cause__, MemoryError)
                with pytest.raises(SearchFailed, match=doing):
                    list(retriever.search_stages(QUESTION, 5))
            assert retriever.search(QUESTION, 5) == expected
