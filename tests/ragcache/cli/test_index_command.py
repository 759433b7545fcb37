"""`ragcache index` on the rows of one file: wrong ones are named and skipped with any options, or fail if strict."""

import argparse
import contextlib
import json
import re
from pathlib import Path

import pytest

from ragcache.cli.index import _tell, add_options
from ragcache.cli.main import main
from ragcache.errors import RagCacheError
from retrieval.store import DocumentStore

ROWS = [
    json.dumps({"id": "a", "text": "good", "note": "half of a pair: \ud800"}),
    json.dumps({"id": "b"}),
    json.dumps({"text": "no id"}),
    '{"id": "c", "text": "deep", "k": ' + "[" * 900 + "]" * 900 + "}",
    json.dumps({"id": "a", "text": "again"}),
    json.dumps({"id": "d", "text": "café"}, ensure_ascii=False),
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "docs.jsonl"
    path.write_text("\n".join(ROWS))
    return path


@pytest.mark.parametrize("options", [[], ["--encoding", "latin-1"], ["--text-field", "text"]])
def test_wrong_rows_of_a_single_file_are_named_and_skipped(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["index", "--corpus", str(corpus), "--out", str(tmp_path / "i"), "--quiet", *options]) == 0
    lines = capsys.readouterr().err.replace(f"{corpus}:", "").splitlines()
    assert [line.partition(";")[0].partition(" (")[0] for line in lines] == [
        "skipped 2: 'text' is missing",
        "skipped 4: holds lists and objects more than 100 deep in one another",
        f"skipped 5: id 'a' is already used in {corpus}:1".replace(f"{corpus}:", ""),
        "3 files or rows could not be read: see above",
    ]
    with DocumentStore.open(tmp_path / "i" / "documents.lmdb") as store:
        assert [store.get(row).id for row in range(len(store))] == ["a", "docs.jsonl:3", "d"]
        assert store.get(0).extra == {"note": "half of a pair: \ud800"}
        assert store.get(2).text == "café"


def test_strict_fails_at_the_first_wrong_row(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "--corpus", str(corpus), "--out", str(tmp_path / "i"), "--quiet", "--strict"]) == 1
    assert capsys.readouterr().err.startswith(f"ragcache index: {corpus}:2: 'text' is missing")
    assert [path.name for path in tmp_path.iterdir()] == ["docs.jsonl"]


@pytest.mark.parametrize("name", ["klingon", "rot13", "base64", "hex", "undefined", "", "a\0b"])
def test_what_is_no_encoding_of_text_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--corpus", "c", "--out", "o", "--encoding", name])
    assert "is not an encoding of text that Python knows" in capsys.readouterr().err
    for known in ("latin-1", "utf-16-le", "UTF-8", "gb18030"):
        assert parser.parse_args(["--corpus", "c", "--out", "o", "--encoding", known]).encoding is not None


def test_a_full_stdout_is_named_beside_the_index_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = argparse.Namespace(documents=1, longer=0)
    options = argparse.Namespace(out=tmp_path / "i", type="flat")
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patched:
        patched.setattr("sys.stdout", full)
        said = f"cannot write to stdout (No space left on device); the index is in its place, {tmp_path / 'i'}"
        with pytest.raises(RagCacheError, match=re.escape(said)):
            _tell(options, cut, 1)
        with contextlib.suppress(OSError):
            full.close()


def test_one_document_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count, words in ((1, "1 document"), (2, "2 documents")):
        cut = argparse.Namespace(documents=count, longer=0)
        _tell(argparse.Namespace(out=tmp_path, type="flat"), cut, count)
        assert capsys.readouterr().out == f"{words} in {tmp_path / 'faiss.idx'} (flat)\n"
