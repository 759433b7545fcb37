"""Building an index: the files it writes, the input it refuses, and that it is never half written."""

import json
import os
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from retrieval import index as index_module
from retrieval.corpus import write_corpus
from retrieval.embedder import Embedder
from retrieval.errors import CorpusError, EmbedderError, IndexFolderError, RetrievalError, RetrievalWarning
from retrieval.index import Manifest, build_index, ivf_parameters
from retrieval.store import DocumentStore
from tests.retrieval.conftest import documents


class Interrupted:
    """An embedder that fails in the middle of its work."""

    def __init__(self, embedder: Embedder, error: BaseException) -> None:
        self._embedder = embedder
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def encode(self, texts: list[str], progress: Callable[[int], None] | None = None) -> np.ndarray:
        self._embedder.encode(texts[:2], progress)
        raise self._error


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new" / "index"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_built_folder_holds_index_documents_and_manifest(corpus: Path, out: Path, tiny: Embedder) -> None:
    manifest = build_index(corpus, out, "flat", tiny, progress=False)
    assert names(out) == ["documents.lmdb", "faiss.idx", "manifest.json"]
    assert names(out.parent) == ["index"]
    assert Manifest.load(out / "manifest.json") == manifest
    assert (manifest.documents, manifest.dim, manifest.embeddings) == (60, 32, "computed")
    assert manifest.embedder_fingerprint == tiny.fingerprint
    vectors = faiss.read_index(str(out / "faiss.idx")).reconstruct_n(0, 60)
    with DocumentStore.open(out / "documents.lmdb") as store:
        stored = [store.get(row) for row in range(60)]
    assert stored == documents(60)
    np.testing.assert_allclose(vectors, tiny.encode([tiny.passage(document) for document in stored]), atol=1e-5)


def test_another_text_of_a_document_can_be_embedded(corpus: Path, out: Path, tiny: Embedder) -> None:
    build_index(corpus, out, "flat", tiny, progress=False, passage=lambda document: document.title)
    vectors = faiss.read_index(str(out / "faiss.idx")).reconstruct_n(0, 60)
    np.testing.assert_allclose(vectors, tiny.encode([document.title for document in documents(60)]), atol=1e-5)
    with DocumentStore.open(out / "documents.lmdb") as store:
        assert store.get(7) == documents(60)[7]


def test_blocks_smaller_than_the_corpus_change_nothing(
    corpus: Path, out: Path, tiny: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(corpus, out, "flat", tiny, progress=False)
    whole = faiss.read_index(str(out / "faiss.idx")).reconstruct_n(0, 60)
    monkeypatch.setattr(index_module, "BLOCK", 7)
    build_index(corpus, out, "flat", tiny, progress=False)
    np.testing.assert_allclose(faiss.read_index(str(out / "faiss.idx")).reconstruct_n(0, 60), whole, atol=1e-5)


def test_ivf_is_deterministic_and_its_parameters_are_kept(tmp_path: Path, corpus: Path, tiny: Embedder) -> None:
    write_corpus(corpus, documents(300))
    first = build_index(corpus, tmp_path / "one", "ivf", tiny, progress=False)
    build_index(corpus, tmp_path / "two", "ivf", tiny, progress=False)
    assert first.parameters == {"nlist": 7, "nprobe": 7}
    assert (tmp_path / "one" / "faiss.idx").read_bytes() == (tmp_path / "two" / "faiss.idx").read_bytes()


@pytest.mark.parametrize(
    ("count", "nlist", "nprobe"),
    [(1, 1, 1), (60, 1, 1), (1_000, 25, 8), (10_000, 256, 32), (1_000_000, 4_000, 500)],
)
def test_ivf_parameters(count: int, nlist: int, nprobe: int) -> None:
    assert ivf_parameters(count) == {"nlist": nlist, "nprobe": nprobe}
    assert count < 39 or count / nlist >= 39


def test_hnsw_parameters_are_kept(corpus: Path, out: Path, tiny: Embedder) -> None:
    manifest = build_index(corpus, out, "hnsw", tiny, progress=False)
    assert manifest.parameters == {"neighbours": 32, "ef_construction": 200, "ef_search": 64}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), RuntimeError("broken")])
def test_an_interruption_leaves_nothing(corpus: Path, out: Path, tiny: Embedder, error: BaseException) -> None:
    with pytest.raises(type(error)):
        build_index(corpus, out, "flat", Interrupted(tiny, error), progress=False)  # type: ignore[arg-type]
    assert names(out.parent) == []


def test_an_interruption_leaves_the_old_index(corpus: Path, out: Path, tiny: Embedder) -> None:
    manifest = build_index(corpus, out, "flat", tiny, progress=False)
    write_corpus(corpus, documents(20))
    with pytest.raises(KeyboardInterrupt):
        build_index(corpus, out, "flat", Interrupted(tiny, KeyboardInterrupt()), progress=False)  # type: ignore[arg-type]
    assert Manifest.load(out / "manifest.json") == manifest
    assert names(out.parent) == ["index"]
    build_index(corpus, out, "flat", tiny, progress=False)
    assert Manifest.load(out / "manifest.json").documents == 20
    assert names(out.parent) == ["index"]


@pytest.mark.parametrize("at_once", [True, False])
def test_if_the_new_index_cannot_be_moved_in_the_old_stays(
    corpus: Path, out: Path, tiny: Embedder, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = build_index(corpus, out, "flat", tiny, progress=False)
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("disk on fire")
        return rename(path, target)

    def exchanged(first: Path, _: Path) -> bool:
        return at_once and bool(failing(first, first))

    monkeypatch.setattr(Path, "rename", failing)
    monkeypatch.setattr("retrieval.build_folder.exchanged", exchanged)
    with pytest.raises(IndexFolderError, match="disk on fire"):
        build_index(corpus, out, "flat", tiny, progress=False)
    assert Manifest.load(out / "manifest.json") == manifest
    assert names(out.parent) == ["index"]


def test_readers_of_a_replaced_index_go_on(corpus: Path, out: Path, tiny: Embedder) -> None:
    build_index(corpus, out, "flat", tiny, progress=False)
    with DocumentStore.open(out / "documents.lmdb") as old:
        write_corpus(corpus, documents(10))
        build_index(corpus, out, "flat", tiny, progress=False)
        with DocumentStore.open(out / "documents.lmdb") as new:
            assert (len(old), len(new)) == (60, 10)
            assert old.get(59).id == "doc-59"


def test_a_wrong_corpus_is_noticed_before_embedding(tmp_path: Path, out: Path, tiny: Embedder) -> None:
    corpus = tmp_path / "docs.jsonl"
    corpus.write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n')
    with pytest.raises(CorpusError, match="already used on line 1"):
        build_index(corpus, out, "flat", Interrupted(tiny, AssertionError()), progress=False)  # type: ignore[arg-type]
    assert names(out.parent) == []


def test_places_that_hold_something_else_are_refused(tmp_path: Path, corpus: Path, tiny: Embedder) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(IndexFolderError, match="holds other files and is not an index"):
        build_index(corpus, tmp_path / "thesis", "flat", tiny, progress=False)
    assert names(tmp_path / "thesis") == ["chapter.txt"]
    with pytest.raises(IndexFolderError, match="is a file"):
        build_index(corpus, corpus, "flat", tiny, progress=False)
    (tmp_path / "empty").mkdir()
    build_index(corpus, tmp_path / "empty", "flat", tiny, progress=False)


def test_unknown_type_and_missing_corpus(tmp_path: Path, corpus: Path, out: Path, tiny: Embedder) -> None:
    with pytest.raises(RetrievalError, match="unknown index type 'tree'; choose one of flat, ivf, hnsw"):
        build_index(corpus, out, "tree", tiny)
    with pytest.raises(CorpusError, match="does not exist"):
        build_index(tmp_path / "none.jsonl", out, "flat", tiny)


def test_progress_goes_to_stderr_and_can_be_turned_off(
    corpus: Path, out: Path, tiny: Embedder, capsys: pytest.CaptureFixture[str]
) -> None:
    build_index(corpus, out, "flat", tiny)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(r"embedding: 100%.*60/60", printed.err)
    assert "reading" not in printed.err, "a step of less than a second shows no bar"
    build_index(corpus, out, "flat", tiny, progress=False)
    assert capsys.readouterr() == ("", "")


def own_vectors(tiny: Embedder, count: int = 60) -> np.ndarray:
    return tiny.encode([tiny.passage(document) for document in documents(count)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_given_vectors_are_normalised(
    tmp_path: Path, corpus: Path, out: Path, tiny: Embedder, dtype: type[np.floating]
) -> None:
    own = own_vectors(tiny)
    np.save(tmp_path / "given.npy", (own * np.linspace(0.5, 40, 60)[:, None]).astype(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest = build_index(corpus, out, "flat", tiny, tmp_path / "given.npy", progress=False)
    assert manifest.embeddings == "given"
    assert names(out) == ["documents.lmdb", "faiss.idx", "manifest.json"]
    indexed = faiss.read_index(str(out / "faiss.idx")).reconstruct_n(0, 60)
    np.testing.assert_allclose(indexed, own, atol=2e-3 if dtype is np.float16 else 1e-6)


def test_vectors_of_another_model_are_warned_of(tmp_path: Path, corpus: Path, out: Path, tiny: Embedder) -> None:
    np.save(tmp_path / "given.npy", np.random.default_rng(0).normal(size=(60, 32)))
    with pytest.warns(RetrievalWarning, match=r"do not look like those of embedder .* over 8 documents"):
        build_index(corpus, out, "flat", tiny, tmp_path / "given.npy", progress=False)


def spoilt(vectors: np.ndarray, row: int, value: float) -> np.ndarray:
    vectors = vectors.copy()
    vectors[row] = value
    return vectors


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda own: own[:59], "59 vectors for the 60 documents"),
        (lambda own: own[:, :31], "vectors of 31 dimensions, but embedder .* makes 32"),
        (lambda own: own[0], "float32 .32.; embeddings are"),
        (lambda own: own.astype(int), "int64"),
        (lambda own: spoilt(own, 17, np.nan), "row 17 is not finite"),
        (lambda own: spoilt(own, 18, np.inf), "row 18 is not finite"),
        (lambda own: spoilt(own, 19, 0), "row 19 is all zeros"),
    ],
)
def test_given_vectors_that_cannot_be_right(
    tmp_path: Path, corpus: Path, out: Path, tiny: Embedder, spoil: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    np.save(tmp_path / "given.npy", spoil(own_vectors(tiny)))
    with pytest.raises(EmbedderError, match=words) as caught:
        build_index(corpus, out, "flat", tiny, tmp_path / "given.npy", progress=False)
    assert str(tmp_path / "given.npy") in str(caught.value)
    assert not out.exists()


def test_embeddings_files_that_are_none(tmp_path: Path, corpus: Path, out: Path, tiny: Embedder) -> None:
    with pytest.raises(EmbedderError, match="does not exist"):
        build_index(corpus, out, "flat", tiny, tmp_path / "none.npy", progress=False)
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(EmbedderError, match=r"not a \.npy file"):
        build_index(corpus, out, "flat", tiny, tmp_path / "text.npy", progress=False)
    np.savez(tmp_path / "many.npz", a=np.zeros(3))
    with pytest.raises(EmbedderError, match=r"an \.npz archive"):
        build_index(corpus, out, "flat", tiny, tmp_path / "many.npz", progress=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "recipe"}, "not the manifest of a ragcache index"),
        ({"format_version": 99}, "format 99 is newer.*update ragcache"),
        ({"format_version": 0}, "index format 0, this version reads 2"),
        ({"documents": "many"}, "'documents' has the wrong type: 'many'"),
        ({"dim": True}, "'dim' has the wrong type"),
        ({"documents": 0}, "0 documents"),
        ({"index_type": "tree"}, "unknown index type 'tree'"),
        ({"parameters": {"nlist": 3}}, "wrong parameters for flat"),
        ({"metric": "l2"}, "unknown metric 'l2'"),
        ({"surprise": 1}, "unknown .'surprise'"),
        ({"dim": None}, "'dim' has the wrong type"),
    ],
)
def test_a_manifest_is_read_strictly(
    corpus: Path, out: Path, tiny: Embedder, change: dict[str, object], words: str
) -> None:
    build_index(corpus, out, "flat", tiny, progress=False)
    path = out / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(IndexFolderError, match=words) as caught:
        Manifest.load(path)
    assert str(path) in str(caught.value)


def test_manifests_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(IndexFolderError, match="has no manifest"):
        Manifest.load(tmp_path / "manifest.json")
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(IndexFolderError, match="not a regular file"):
        Manifest.load(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").symlink_to("/dev/zero")
    with pytest.raises(IndexFolderError, match="not a regular file"):
        Manifest.load(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(IndexFolderError, match="unreadable"):
        Manifest.load(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text('{"kind": "ragcache-index", "format_version": 1}')
    with pytest.raises(IndexFolderError, match=r"fields missing .*'corpus_fingerprint'"):
        Manifest.load(tmp_path / "manifest.json")


def test_two_builds_of_one_folder_leave_one_whole_index(corpus: Path, out: Path, tiny: Embedder) -> None:
    failures: list[BaseException] = []

    def build() -> None:
        try:
            build_index(corpus, out, "flat", tiny, progress=False)
        except OSError as error:  # the other build moved its index in between: this one is discarded
            failures.append(error)

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) < 2
    assert Manifest.load(out / "manifest.json").documents == 60
    assert names(out.parent) == ["index"]
