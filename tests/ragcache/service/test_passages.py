"""Passages as the service answers from them: their source and place, joined neighbours, and KV that both share."""

from pathlib import Path

import pytest

import ragcache
from retrieval.corpus import Document, write_corpus
from retrieval.embedder import Embedder
from retrieval.index import build_index
from retrieval.passages import PassageSplitter
from server.client import RagClient

PARTS = [
    "Otters hold hands while they sleep. They float on their backs in the river, and the pups lie on their mothers.",
    "A violin has four strings tuned in fifths. Its body is made of spruce and maple, and its bow of horsehair.",
    "Bread rises because yeast turns sugar into gas. The dough rests for an hour before it is baked in the oven.",
]
TEXT = "\n\n".join(PARTS)
OTTERS, BREAD = "Why do otters hold hands?", "What makes bread rise?"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a book of three passages, and a note."""
    folder = tmp_path_factory.mktemp("passages")
    write_corpus(folder / "docs.jsonl", [Document("book", "Book", TEXT), Document("note", "", "The tide is high.")])
    embedder = Embedder.load(threads=1)
    cut = PassageSplitter(embedder, 40, 12)
    build_index(folder / "docs.jsonl", folder / "index", "flat", embedder, progress=False, cut=cut)
    return folder / "index"


@pytest.fixture
def service(index: Path, tiny_folder: Path):
    settings = {"device_cache": 4 << 20, "max_tokens": 4, "threads": 1, "max_doc_tokens": 200, "port": 0}
    with ragcache.open_service(index=index / "faiss.idx", model=str(tiny_folder), **settings) as service:
        yield service


def test_documents_say_where_they_were_cut_from(service):
    with RagClient(service.url) as client:
        documents = client.ask(BREAD, top_k=4)["documents"]
    assert len(documents) == 4
    assert documents[0]["score"] > documents[1]["score"]  # best first, however they stand in the prompt
    for document in documents:
        if document["source"] == "book":
            assert document["id"].startswith("book#")
            assert document["title"] == "Book"
            assert 0 <= document["start"] < document["end"] <= len(TEXT)
        else:
            assert [document[name] for name in ("id", "source", "start", "end")] == ["note", "note", None, None]
    best = documents[0]
    assert "yeast" in TEXT[best["start"] : best["end"]]


def test_joined_passages_reuse_the_kv_of_the_first_and_of_each_other(service):
    alone = service.ask(OTTERS, top_k=1)
    assert [document.id for document in alone.documents] == ["book#1"]
    joined, other = service.ask(OTTERS, top_k=4), service.ask(BREAD, top_k=4)
    assert other.documents[0].id == "book#3"
    assert joined.usage.cached_tokens.device == service.ask(OTTERS, top_k=1).usage.cached_tokens.device
    # the other question has the same hits in another order, and so the same path
    question = service.ask(BREAD, top_k=4).usage.computed_tokens
    assert other.usage.computed_tokens == question < joined.usage.computed_tokens


def test_answers_are_those_of_a_cache_that_is_empty(service):
    asked = [(OTTERS, 1), (OTTERS, 3), (BREAD, 3), (BREAD, 2)]
    warm = [service.ask(question, top_k=top_k).token_ids for question, top_k in asked]
    with RagClient(service.url) as client:
        for (question, top_k), ids in zip(asked, warm, strict=True):
            client.clear_cache()
            assert service.ask(question, top_k=top_k).token_ids == ids
