"""Corpus files: what is read, what is refused and in which words, what is written."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval.corpus import CorpusFingerprint, Document, Fields, read_corpus, write_corpus
from retrieval.errors import CorpusError

ROW = '{"id": "a", "text": "some text"}'


def refused(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        list(read_corpus(path))
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "docs.jsonl"


def test_reads_rows_with_title_and_extra_fields(file: Path) -> None:
    file.write_text('{"id": "a", "title": "T", "text": "x", "url": "u", "n": [1]}\n\n  \n{"id": "b", "text": "y"}\n')
    first, second = read_corpus(file)
    assert first == Document("a", "T", "x", {"url": "u", "n": [1]})
    assert second == Document("b", "", "y")


def test_reads_gzip_byte_order_mark_and_null_title(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl.gz"
    path.write_bytes(gzip.compress('\ufeff{"id": "a", "title": null, "text": "grün"}'.encode()))
    assert list(read_corpus(path)) == [Document("a", "", "grün")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{not json", ["not JSON", "one JSON object"]),
        ("[1, 2]", ["JSON array", "object"]),
        ('"text"', ["JSON string"]),
        ("null", ["JSON null"]),
        ('{"id": "b"}', ["'text' is missing"]),
        ('{"id": "b", "text": null}', ["'text' is missing"]),
        ('{"id": "b", "text": " \\n "}', ["'text' is blank"]),
        ('{"id": "b", "text": 7}', ["'text' is a JSON number"]),
        ('{"text": "x"}', ["'id' is missing"]),
        ('{"id": "", "text": "x"}', ["'id' is blank"]),
        ('{"id": 7.5, "text": "x"}', ["'id' is a JSON number", "string"]),
        ('{"id": true, "text": "x"}', ["'id' is a JSON boolean", "string"]),
        ('{"id": "b", "title": [], "text": "x"}', ["'title' is a JSON array"]),
        ('{"id": "b", "text": "\\ud800"}', ["surrogate", "'text'"]),
        ('{"id": "a", "text": "x"}', ["'a' is already used on line 1"]),
        ("[" * 100_000, ["not JSON"]),
    ],
)
def test_a_wrong_row_is_named_by_its_line(file: Path, line: str, words: list[str]) -> None:
    file.write_text(f"{ROW}\n\n{line}\n")
    message = refused(file)
    assert f"{file}:3: " in message
    for word in words:
        assert word in message


def test_wrong_encoding_is_named_by_line_and_byte(file: Path) -> None:
    file.write_bytes(ROW.encode() + b'\n{"id": "b", "text": "caf\xe9"}\n')
    assert f"{file}:2: not UTF-8 (byte 25 of the line)" in refused(file)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_corpus(file: Path, content: str) -> None:
    file.write_text(content)
    assert "the corpus is empty" in refused(file)


def test_missing_file_folder_and_wrong_suffix_are_refused_before_reading(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        read_corpus(tmp_path / "none.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(CorpusError, match="is a folder"):
        read_corpus(tmp_path / "folder.jsonl")
    with pytest.raises(CorpusError, match=r"rename or convert"):
        read_corpus(tmp_path / "docs.csv")


def test_integer_ids_are_taken_as_text(file: Path) -> None:
    file.write_text('{"id": 7, "text": "x"}\n{"id": -1, "text": "y"}\n{"id": "7", "text": "z"}\n')
    rows = read_corpus(file)
    assert [next(rows).id, next(rows).id] == ["7", "-1"]
    with pytest.raises(CorpusError, match="id '7' is already used on line 1"):
        next(rows)


def test_other_names_of_the_fields(file: Path) -> None:
    file.write_text('{"key": 7, "body": "x", "head": "T", "id": "kept"}\n')
    assert list(read_corpus(file, fields=Fields("key", "head", "body"))) == [Document("7", "T", "x", {"id": "kept"})]
    with pytest.raises(CorpusError, match="'text' is missing; every row needs a string 'key' and a string 'text'"):
        list(read_corpus(file, fields=Fields("key")))


@pytest.mark.parametrize("harm", ["truncated", "plain", "garbled"])
def test_damaged_gzip(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "docs.jsonl.gz"
    packed = gzip.compress("\n".join(f'{{"id": "{n}", "text": "text {n * n}"}}' for n in range(500)).encode())
    garbled = packed[:200] + bytes(200) + packed[400:]
    path.write_bytes({"truncated": packed[:-100], "plain": ROW.encode(), "garbled": garbled}[harm])
    message = refused(path)
    assert str(path) in message
    assert "not a complete gzip file" in message or "not JSON" in message or "not UTF-8" in message


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.jsonl.gz"])
def test_progress_adds_up_to_no_more_than_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_corpus(path, (Document(str(n), "", f"text {n}" * 50) for n in range(400)))
    bytes_read: list[int] = []
    assert len(list(read_corpus(path, bytes_read.append))) == 400
    assert 0 < sum(bytes_read) <= path.stat().st_size


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.jsonl.gz"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    documents = [Document("ä", "T", "línea\u2028zwei\n", {"k": {"x": 1.5}}), Document("b", "", "y")]
    assert write_corpus(tmp_path / "new" / name, documents) == 2
    assert list(read_corpus(tmp_path / "new" / name)) == documents


def test_equal_documents_give_equal_gzip_bytes(tmp_path: Path) -> None:
    documents = [Document("a", "T", "x")]
    write_corpus(tmp_path / "one.jsonl.gz", documents)
    write_corpus(tmp_path / "another.jsonl.gz", documents)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "another.jsonl.gz").read_bytes()


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(file: Path) -> None:
    write_corpus(file, [Document("a", "", "old")])

    def interrupted() -> Iterator[Document]:
        yield Document("b", "", "new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_corpus(file, interrupted())
    assert [document.text for document in read_corpus(file)] == ["old"]
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        ([], "no documents"),
        ([Document("a", "", "x"), Document("a", "", "y")], "already used by document 1"),
        ([Document("a", "", "  ")], "'text' is blank"),
        ([Document("a", "", "x", {"title": "again"})], "extra field 'title'"),
        ([Document("a", "", "x", {"when": object()})], "cannot be written as JSON"),
    ],
)
def test_what_could_not_be_read_is_not_written(file: Path, documents: list[Document], words: str) -> None:
    with pytest.raises(CorpusError, match=words):
        write_corpus(file, documents)
    assert not file.exists()


def test_fingerprint_sees_fields_and_order_but_not_extra() -> None:
    def of(*documents: Document) -> str:
        fingerprint = CorpusFingerprint()
        for document in documents:
            fingerprint.add(document)
        return fingerprint.hexdigest()

    a, b = Document("a", "t", "x"), Document("b", "t", "y")
    assert of(a, b) == of(a, Document("b", "t", "y", {"more": 1}))
    assert len({of(), of(a), of(a, b), of(b, a), of(Document("a", "", "tx")), of(Document("at", "", "x"))}) == 6


def test_documents_with_extra_can_be_members_of_sets() -> None:
    assert len({Document("a", "", "x", {"k": 1}), Document("a", "", "x", {"k": 1})}) == 1


def test_rows_are_json_lines_with_own_fields_first(file: Path) -> None:
    write_corpus(file, [Document("a", "T", "x", {"url": "u"})])
    assert list(json.loads(file.read_text())) == ["id", "title", "text", "url"]
