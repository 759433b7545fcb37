"""`ragcache index`: what can be seen to be wrong is said before an embedder is loaded."""

import numpy as np
import pytest

from ragcache.cli import index
from ragcache.cli.main import command_parser
from retrieval.embedder import Embedder
from retrieval.errors import RetrievalError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--corpus", "missing.jsonl"], "missing"),
        (["--corpus", "missing"], "missing"),
        (["--out", "full"], "other files"),
        (["--out", "corpus.jsonl"], "is a file"),
        (["--out", "corpus.jsonl/index"], r"cannot build there \(.*Not a directory"),
        (["--whole", "--overlap", "3"], "--overlap does not go with --whole"),
        (["--embeddings", "v.npy", "--passage-tokens", "30"], "--passage-tokens does not go with --embeddings"),
        (["--embeddings", "none.npy"], "does not exist"),
        (["--embeddings", "corpus.jsonl"], "not a .npy file"),
    ],
)
def test_what_is_wrong_is_said_before_an_embedder_is_loaded(tmp_path, monkeypatch, words, message):
    def load(*_: object) -> None:
        raise AssertionError("an embedder is loaded")

    monkeypatch.setattr(Embedder, "load", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"id": "a", "text": "b"}\n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    np.save(tmp_path / "v.npy", np.ones((1, 4), np.float32))
    given = dict(zip(words[::2], words[1::2], strict=False))
    rest = [] if "--corpus" in given else ["--corpus", "corpus.jsonl"]
    rest += [] if "--out" in given else ["--out", "index"]
    with pytest.raises(RetrievalError, match=message):
        index.run(command_parser("index").parse_args([*words, *rest]))
    assert not (tmp_path / "index").exists()
