"""Passages: each is embedded to its end, none is lost, ids stay unique, and an index holds where they came from."""

import itertools
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import passages as passages_module
from retrieval.corpus import Document, Passage, write_corpus
from retrieval.embedder import Embedder
from retrieval.errors import RetrievalError
from retrieval.index import build_index
from retrieval.passages import PassageSplitter, WholeDocuments
from retrieval.retriever import Retriever
from retrieval.store import DocumentStore, DocumentWriter

WORDS = ["river", "stone", "lantern", "copper", "violin", "harbour", "meadow", "engine", "overlap", "resplendent"]


def prose(sentences: int, seed: int = 1) -> str:
    rng = random.Random(seed)
    made = [" ".join(rng.choices(WORDS, k=rng.randint(3, 14))).capitalize() + "." for _ in range(sentences)]
    return "".join(sentence + rng.choice([" ", " ", " ", "\n\n", "\n\n## Part\n\n"]) for sentence in made).strip()


def long(name: str = "a", title: str = "Title", sentences: int = 60) -> Document:
    return Document(name, title, prose(sentences), {"year": 1999})


def check(document: Document, cut: list[Document], splitter: PassageSplitter, embedder: Embedder) -> None:
    """What every cut keeps to."""
    tokenizer = embedder.tokenizer
    assert len(cut) > 1
    reached = 0
    for number, passage in enumerate(cut, start=1):
        where = passage.passage
        assert where is not None
        assert (where.source, where.number) == (document.id, number)
        assert passage.text == document.text[where.start : where.end]
        assert passage.extra == document.extra
        assert len(tokenizer.encode(embedder.passage(passage)).ids) <= splitter.tokens
        assert document.text[reached : where.start].strip() == ""  # what is left out is white space
        shared = document.text[where.start : max(reached, where.start)]
        assert len(tokenizer.encode(shared, add_special_tokens=False).ids) <= splitter.overlap
        assert where.end > reached
        reached = where.end
    assert document.text[reached:].strip() == ""


def test_a_short_document_stays_as_it_is(tiny: Embedder) -> None:
    splitter = PassageSplitter(tiny)
    document = Document("a", "Title", "Some words.", {"year": 1999})
    assert list(splitter(document)) == [document]
    assert document.source == "a"
    assert (splitter.documents, splitter.longer) == (1, 0)


def test_a_document_that_just_fits_is_not_cut(tiny: Embedder) -> None:
    room = tiny.max_tokens - 2 - len(tiny.tokenizer.encode("Title. ", add_special_tokens=False).ids)
    splitter = PassageSplitter(tiny)
    assert len(list(splitter(Document("fits", "Title", "stone " * room)))) == 1
    assert len(list(splitter(Document("long", "Title", "stone " * (room + 1))))) == 2


@pytest.mark.parametrize(("tokens", "overlap"), [(None, None), (16, 0), (24, 11), (48, 23)])
@pytest.mark.parametrize("title", ["", "Title", "A title of rather more words than one"])
def test_passages_cover_the_text_and_are_read_to_their_ends(
    tiny: Embedder, tokens: int | None, overlap: int | None, title: str
) -> None:
    splitter = PassageSplitter(tiny, tokens, overlap)
    document = long(title=title)
    cut = list(splitter(document))
    check(document, cut, splitter, tiny)
    assert [passage.id for passage in cut] == [f"a#{number}" for number in range(1, len(cut) + 1)]
    assert (splitter.documents, splitter.longer) == (1, 1)


PIECES = [*WORDS, "\n\n", "\n", ". ", " ", "# ", "\u4e2d\u6587", "e\u0301", "\U0001f600", "```\n", "\r\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=400))
def test_any_text_is_covered(tiny: Embedder, pieces: list[str]) -> None:
    document = Document("a", "Title", "word " + " ".join(pieces) + prose(30))
    splitter = PassageSplitter(tiny, 32, 8)
    check(document, list(splitter(document)), splitter, tiny)


def test_neighbours_share_their_overlap(tiny: Embedder) -> None:
    words = Document("a", "", " ".join(random.Random(1).choices(WORDS, k=400)))
    cut = list(PassageSplitter(tiny, 32, 8)(words))
    assert min(overlaps(cut)) > 0
    assert max(overlaps(list(PassageSplitter(tiny, 32, 0)(words)))) <= 0


def overlaps(cut: list[Document]) -> list[int]:
    """Characters that each passage shares with the next one."""
    return [a.passage.end - b.passage.start for a, b in itertools.pairwise(cut) if a.passage and b.passage]


def test_it_cuts_at_headings_and_sentences(default_embedder: Embedder) -> None:
    parts = [f"## Part {n}\n\n" + "One sentence says little. " * 30 for n in range(4)]
    cut = list(PassageSplitter(default_embedder)(Document("a", "Book", "\n\n".join(parts))))
    assert [passage.text.split("\n")[0] for passage in cut] == [f"## Part {n}" for n in range(4)]
    sentences = list(PassageSplitter(default_embedder)(Document("b", "", "One sentence says little. " * 200)))
    assert all(passage.text.startswith("One") and passage.text.endswith("little.") for passage in sentences)


def test_a_long_title_leaves_room_for_the_text(tiny: Embedder) -> None:
    document = long(title="many words of a title " * 40)
    splitter = PassageSplitter(tiny)
    cut = list(splitter(document))
    check(document, cut, splitter, tiny)
    assert cut[0].title.startswith("many words")
    assert len(cut) < 60


@pytest.mark.parametrize("words", [3, 20, 33])
def test_a_long_title_on_a_text_that_fits_is_shortened_as_little_as_needed(tiny: Embedder, words: int) -> None:
    splitter = PassageSplitter(tiny)
    title, text = "stone " * 200, ("river " * words).strip()
    (whole,) = splitter(Document("b", title, text))
    assert (whole.id, whole.text, whole.passage) == ("b", text, None)
    assert title.startswith(whole.title)
    assert 46 - words - 4 <= len(whole.title.split()) <= 46 - words
    assert len(tiny.tokenizer.encode(tiny.passage(whole)).ids) <= splitter.tokens
    assert (splitter.documents, splitter.longer) == (1, 0)


def test_text_without_words_is_cut_too(tiny: Embedder) -> None:
    blob = Document("a", "", "x" * 50_000)  # one unknown token to the embedder
    cut = list(PassageSplitter(tiny)(blob))
    assert "".join(passage.text for passage in cut) == blob.text
    assert max(len(passage.text) for passage in cut) <= 48 * 32


def test_windows_lose_nothing(tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages_module, "WINDOW_CHARACTERS", 500)
    splitter = PassageSplitter(tiny)
    document = long(sentences=200)
    check(document, list(splitter(document)), splitter, tiny)
    unbroken = Document("b", "", "".join(random.Random(2).choices("abcdefg", k=3000)))
    assert "".join(passage.text for passage in splitter(unbroken)) == unbroken.text


def test_windows_overlap_and_cut_no_sentence(tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    words = Document("a", "", " ".join(random.Random(3).choices(WORDS, k=4000)))
    monkeypatch.setattr(passages_module, "WINDOW_CHARACTERS", 3000)
    cut = list(PassageSplitter(tiny, 32, 8)(words))
    check(words, cut, PassageSplitter(tiny, 32, 8), tiny)
    assert min(overlaps(cut)) > 0
    sentences = Document("b", "", "\u4e2d\u6587\u4e00\u4e8c\u4e09\u3002" * 2000)
    assert {passage.text[-1] for passage in PassageSplitter(tiny, 32, 0)(sentences)} == {"\u3002"}
    whole = list(PassageSplitter(tiny, 32, 8)(words))
    monkeypatch.setattr(passages_module, "WINDOW_CHARACTERS", 1 << 20)
    assert list(PassageSplitter(tiny, 32, 8)(words)) == whole  # windows are not seen in plain text


@pytest.mark.parametrize("line", ["\n", "\r\n", " \n", "\t\n \u2003\n"])
@pytest.mark.parametrize("form", ["First.\n{}Last.", "{}First.{}Last.{}", "{0}First." + "{0}Last." * 9])
def test_a_gap_of_blank_lines_is_never_split(
    tiny: Embedder, monkeypatch: pytest.MonkeyPatch, form: str, line: str
) -> None:
    splitter = PassageSplitter(tiny)
    given: list[str] = []

    class Recorded:
        def chunk_indices(self, text: str) -> list[tuple[int, str]]:
            given.append(text)
            return made.chunk_indices(text)

    made = splitter._splitter(46)
    monkeypatch.setattr(splitter, "_splitter", lambda _capacity: Recorded())
    gap = line * 70_000
    document = Document("a", "", form.format(gap, gap, gap))
    cut = list(splitter(document))
    check(document, cut, splitter, tiny)
    assert {passage.text for passage in cut} == {"First.", "Last."}
    # the splitter takes the square of the number of blank lines in a row
    assert max(map(len, given)) < 1000


@pytest.mark.timing
def test_blank_lines_are_cut_in_linear_time(tiny: Embedder) -> None:
    begin = time.monotonic()
    list(PassageSplitter(tiny)(Document("a", "", "hello\n" + "\n" * 1_000_000 + ("word\n" + "\n" * 500) * 200 + "end")))
    assert time.monotonic() - begin < 10


def test_equal_documents_are_cut_equally(tiny: Embedder) -> None:
    assert list(PassageSplitter(tiny)(long())) == list(PassageSplitter(tiny)(long()))


@pytest.mark.parametrize(
    "order",
    [
        ["a", "a#2", "a#1"],
        ["a#2", "a#1", "a"],
        ["a#1", "a", "a#2"],
        ["a", "a#1", "a##1"],
        ["a#1", "a", "a#!"],
        ["a#1", "a#!", "a"],
        ["a#!", "a#1", "a", "a##!"],
    ],
)
def test_ids_stay_unique_beside_documents_that_are_called_like_passages(tiny: Embedder, order: list[str]) -> None:
    splitter = PassageSplitter(tiny)
    cut = [
        passage
        for name in order
        for passage in splitter(
            long(name.rstrip("!")) if name in ("a", "a#!", "a##!") else Document(name, "", f"Short text of {name}.")
        )
    ]
    assert len({passage.id for passage in cut}) == len(cut)
    assert {passage.source for passage in cut} == {name.rstrip("!") for name in order}


@pytest.mark.parametrize(
    ("tokens", "overlap", "said"),
    [
        (49, None, "passages of 49 tokens are not possible.* reads 48; choose from 16 to 48"),
        (15, None, "choose from 16 to 48"),
        (None, 24, "an overlap of 24 tokens is not possible in passages of 48; choose from 0 to 23"),
        (None, -1, "an overlap of -1 tokens"),
    ],
)
def test_impossible_sizes_are_refused(tiny: Embedder, tokens: int | None, overlap: int | None, said: str) -> None:
    with pytest.raises(RetrievalError, match=said):
        PassageSplitter(tiny, tokens, overlap)


def test_defaults_follow_the_embedder(tiny: Embedder, default_embedder: Embedder) -> None:
    assert (PassageSplitter(default_embedder).tokens, PassageSplitter(default_embedder).overlap) == (256, 32)
    assert (PassageSplitter(tiny).tokens, PassageSplitter(tiny).overlap) == (48, 6)


def test_whole_documents_are_counted(tiny: Embedder) -> None:
    whole = WholeDocuments(tiny)
    documents = [Document("a", "", "short"), Document("b", "", "stone " * 100), Document("c", "", "stone " * 40_000)]
    assert [part for document in documents for part in whole(document)] == documents
    assert (whole.documents, whole.longer, whole.unread) == (3, 2, 1)


def test_an_index_of_passages_finds_what_stands_at_the_end(tmp_path: Path, default_embedder: Embedder) -> None:
    # the kind of service case 15: the answer is behind all that the embedder reads of the document
    notes = [Document(f"n{n}", "", f"Note {n}: city {n} stores crates of product {n}.") for n in range(20)]
    text = "The leave policy grants sixteen weeks. " + "Words go on and on. " * 300 + "The secret code is 4711."
    write_corpus(tmp_path / "c.jsonl", [*notes, Document("handbook", "Handbook", text)])
    splitter = PassageSplitter(default_embedder)
    manifest = build_index(tmp_path / "c.jsonl", tmp_path / "i", "flat", default_embedder, progress=False, cut=splitter)
    assert manifest.documents > splitter.documents == 21
    with Retriever.open(tmp_path / "i") as retriever:
        found = retriever.search("What is the secret code?", 1)[0].document
        assert found.passage is not None
        assert (found.source, found.passage.end, found.title) == ("handbook", len(text), "Handbook")
        assert found.text == text[found.passage.start : found.passage.end]
        assert found.text.endswith("4711.")
        assert retriever.store.get(retriever.store.row_of(found.id)) == found


def test_a_store_holds_documents_and_passages(tmp_path: Path) -> None:
    whole, passage = Document("a", "A", "text", {"k": 1}), Document("b#1", "B", "text", {}, Passage("b", 1, 0, 4))
    with DocumentWriter(tmp_path / "s") as writer:
        writer.add(whole)
        writer.add(passage)
    with DocumentStore.open(tmp_path / "s") as store:
        assert [store.get(0), store.get(1)] == [whole, passage]
        assert (store.get(0).passage, store.get(1).source) == (None, "b")
