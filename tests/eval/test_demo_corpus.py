"""The demo's index: what of a document it embeds, and what makes another one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval import demo_corpus
from eval.demo_corpus import EMBEDDED_WORDS, demo_index, embedded_text, is_built
from retrieval.corpus import Document
from retrieval.pydocs import LEAST_WORDS


def test_the_first_words_without_markup_are_embedded() -> None:
    text = "json.dumps\n\nSerialize ``obj`` to a :class:`str`.\n"
    assert embedded_text(Document("json.dumps", "json.dumps", text)) == "json.dumps. Serialize obj to a str."
    long = embedded_text(Document("long", "long", "word " * 500))
    assert len(long.split()) == EMBEDDED_WORDS == LEAST_WORDS


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Builds the demo's index with three documents, and an embedder that does nothing."""
    documents = [Document(name, name, f"{name} does something. " * 20) for name in ("a", "b", "c")]

    def built(corpus: Path, out: Path, kind: str, embedder: object, passage: Callable[[Document], str]) -> None:
        assert (corpus.is_file(), kind, embedder) == (True, "flat", None)
        out.mkdir()
        (out / "manifest.json").write_text(passage(documents[0]))

    monkeypatch.setattr(demo_corpus, "collect", lambda: documents)
    monkeypatch.setattr(demo_corpus, "build_index", built)
    monkeypatch.setattr(demo_corpus.Embedder, "load", lambda: None)
    return lambda: demo_index(tmp_path)


def test_the_index_is_built_once(build: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_built(tmp_path)
    folder = build()
    assert is_built(tmp_path)
    assert (folder / "manifest.json").read_text().startswith("a. does something. a does")
    assert "collecting the documentation" in capsys.readouterr().err
    assert build() == folder
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMBEDDED_WORDS", 7),
        ("embedded_text", lambda document: document.title),
        ("PACKAGES", ("stdlib",)),
        ("_version", lambda _: "9.9"),
    ],
)
def test_another_choice_of_text_or_versions_makes_another_index(
    build: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    first = build()
    monkeypatch.setattr(demo_corpus, name, value)
    assert build() != first
