"""Mixed files: a folder of every format becomes documents in a steady order; the rest is named, or fails if strict."""

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from retrieval.corpus import Document
from retrieval.embedder import Embedder
from retrieval.errors import CorpusError
from retrieval.index import build_index
from retrieval.retriever import Retriever
from retrieval.sources.mixed_files import KINDS, NAMED_ROWS, MixedFiles
from retrieval.sources.rows import Columns
from retrieval.sources.unreadable import Unreadable
from tests.retrieval.sources.real_files import write_docx, write_pdf, write_scan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One good file of most kinds, in two folders."""
    folder = tmp_path / "mixed"
    (folder / "sub").mkdir(parents=True)
    (folder / "leave.md").write_text("# Leave policy\n\nThere are sixteen weeks of leave.\n")
    (folder / "tea.TXT").write_text("Tea is made of leaves.")
    (folder / "sub" / "page.html").write_text("<title>Rockets</title><p>Rockets burn kerosene.</p>")
    write_pdf(folder / "sub" / "report.pdf", [["Glaciers flow downhill."]], title="Ice")
    write_docx(folder / "sub" / "welcome.docx", "", "Day one", ("Bring your badge.",))
    (folder / "rows.csv").write_text("id,text\n7,Violins have four strings.\n")
    (folder / "rows.json").write_text('[{"text": "Owls fly silently."}]')
    return folder


IDS = ["leave.md", "7", "rows.json:1", "sub/page.html", "sub/report.pdf", "sub/welcome.docx", "tea.TXT"]


def test_every_file_is_a_document_in_a_steady_order(folder: Path) -> None:
    source = MixedFiles([folder])
    documents = list(source.documents())
    assert [document.id for document in documents] == IDS
    assert documents[0] == Document("leave.md", "Leave policy", "# Leave policy\n\nThere are sixteen weeks of leave.\n")
    assert [document.title for document in documents] == ["Leave policy", "", "", "Rockets", "Ice", "Day one", ""]
    assert list(MixedFiles([folder]).documents()) == documents
    assert source.skipped == 0


def test_progress_adds_up(folder: Path) -> None:
    read: list[int] = []
    source = MixedFiles([folder])
    list(source.documents(read.append))
    assert sum(read) == source.size == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_progress_goes_on_within_a_file(tmp_path: Path) -> None:
    rows = [{"id": n, "text": "some text " * 50} for n in range(2000)]
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in rows))
    (tmp_path / "b.json").write_text(json.dumps([{**row, "id": f"{row['id']}b"} for row in rows]))
    parquet.write_table(pa.table({"id": [f"{n}c" for n in range(2000)], "text": ["x"] * 2000}), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({**row, "id": f"{row['id']}d"}) + "\n" for row in rows))
    read: list[int] = []
    source = MixedFiles([tmp_path])
    documents = source.documents(read.append)
    before = 0
    for file in source.files:
        for _ in range(1000):
            next(documents)
        assert 0.3 * file.size < sum(read) - before < 0.7 * file.size
        for _ in range(1000):
            next(documents)
        before += file.size
    assert list(documents) == []
    assert sum(read) == source.size


def spoil(folder: Path) -> list[str]:
    """Adds what cannot be read; what is to be said about it."""
    (folder / "bad.pdf").write_text("no PDF")
    (folder / "empty.md").touch()
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "Makefile").write_text("all:\n")
    (folder / "rows.jsonl").write_text('{"id": "8", "text": "good"}\n{"id": "7", "text": "again"}\n{"id": "9"}\n')
    return [
        "Makefile: a file without a suffix is not read",
        "picture.png: .png files are not read",
        "bad.pdf: damaged, or not pdf",
        "empty.md: empty",
        "latin.txt: not UTF-8",
        "rows.jsonl:2: id '7' is already used in ",
        "rows.jsonl:3: 'text' is missing",
    ]


def test_what_cannot_be_read_is_named_and_counted(folder: Path) -> None:
    expected = spoil(folder)
    said: list[Unreadable] = []
    source = MixedFiles([folder], skip=said.append)
    ids = [document.id for document in source.documents()]
    assert sorted(ids) == sorted([*IDS, "8"])
    assert source.skipped == len(said) == len(expected)
    for error, begin in zip(said, expected, strict=True):
        assert str(error).startswith(f"{folder}/{begin}")


def test_only_the_first_wrong_rows_of_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "1"}\n' * (NAMED_ROWS + 1))
    (tmp_path / "b.jsonl").write_text('{"id": "1", "text": "x"}\n' * 1000)
    (tmp_path / "c.csv").write_text("id,text\n" + "2\n" * NAMED_ROWS + "3,x\n")
    (tmp_path / "d.csv").write_bytes(b"id,text\n" + b"2\n" * (1 << 16) + b"4,\xe9\n")
    said: list[Unreadable] = []
    source = MixedFiles([tmp_path], fallback="ascii", skip=said.append)
    assert [document.id for document in source.documents()] == ["1", "3"]
    lines = [str(error).removeprefix(f"{tmp_path}/") for error in said]
    more = [line for line in lines if " more row" in line]
    assert more[:-1] == ["a.jsonl: and 1 more row like these", "b.jsonl: and 979 more rows like these"]
    assert len(lines) == 4 * NAMED_ROWS + 4
    assert lines[-2] == more[-1]
    assert "not CSV behind this row" in lines[-1]
    cut = int(more[-1].removeprefix("d.csv: and ").split()[0])
    assert 0 < cut < 1 << 16
    assert source.skipped == NAMED_ROWS + 1 + 999 + NAMED_ROWS + NAMED_ROWS + cut + 1


@pytest.mark.parametrize("name", ["bad.pdf", "empty.md", "latin.txt", "picture.png", "rows.jsonl"])
def test_strict_fails_at_the_first(folder: Path, tmp_path: Path, name: str) -> None:
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    spoil(spoiled)
    shutil.copy(spoiled / name, folder / name)
    with pytest.raises(CorpusError, match=name):
        list(MixedFiles([folder], strict=True).documents())


def test_json_that_cannot_be_read_further_is_counted_and_fails_if_strict(folder: Path) -> None:
    (folder / "cut.json").write_text('[{"id": "8", "text": "good"}, {"id": "9", "text": "no mark}, {"text": "lost"}]')
    said: list[Unreadable] = []
    source = MixedFiles([folder], skip=said.append)
    assert sorted(document.id for document in source.documents()) == sorted([*IDS, "8"])
    assert [error.where for error in said] == [f"{folder}/cut.json:2"]
    assert source.skipped == 1
    with pytest.raises(CorpusError, match=r"cut\.json:2: not JSON from this row on"):
        list(MixedFiles([folder], strict=True).documents())


def test_strict_reads_what_is_right(folder: Path) -> None:
    assert [document.id for document in MixedFiles([folder], strict=True).documents()] == IDS


def test_a_file_that_is_read_in_part_is_a_document_and_named(folder: Path) -> None:
    scan = write_scan(folder / "scan.pdf", ["words", None])
    said: list[Unreadable] = []
    source = MixedFiles([folder], skip=said.append)
    assert "scan.pdf" in [document.id for document in source.documents()]
    assert [error.where for error in said] == [f"{scan} (1 of 2 pages)"]
    assert source.skipped == 1
    with pytest.raises(CorpusError, match=r"scan\.pdf"):
        list(MixedFiles([folder], strict=True).documents())


@pytest.mark.parametrize("name", ["a.JSON", "A.JSONL", "A.JSONL.GZ", "A.CSV", "A.Parquet"])
def test_suffixes_in_capitals_are_read_alike(tmp_path: Path, name: str) -> None:
    row = {"id": "7", "text": "x"}
    data = {".json": json.dumps(row).encode(), ".jsonl": json.dumps(row).encode(), ".csv": b"id,text\n7,x"}
    data[".gz"] = gzip.compress(data[".jsonl"])
    suffix = (tmp_path / name).suffix.lower()
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist([row]), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(data[suffix])
    assert list(MixedFiles([tmp_path]).documents()) == [Document("7", "", "x")]


def test_single_files_and_columns(folder: Path) -> None:
    (folder / "named.csv").write_text("key,body\n1,one\n")
    source = MixedFiles([folder / "named.csv"], columns=Columns("key", None, "body"))
    assert list(source.documents()) == [Document("1", "", "one")]


def test_the_encoding_can_be_given(folder: Path) -> None:
    spoil(folder)
    documents = {document.id: document for document in MixedFiles([folder], fallback="latin-1").documents()}
    assert documents["latin.txt"].text == "café"


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"there is no file to read; known are \.md"):
        list(MixedFiles([tmp_path]).documents())
    (tmp_path / "a.md").touch()
    with pytest.raises(CorpusError, match="no document could be read"):
        list(MixedFiles([tmp_path]).documents())
    with pytest.raises(CorpusError, match="does not exist"):
        list(MixedFiles([tmp_path / "none"]).documents())


def test_every_kind_is_a_suffix() -> None:
    assert all(kind.startswith(".") and kind == kind.lower() for kind in KINDS)


def test_a_folder_is_indexed_and_searched(folder: Path, tmp_path: Path, default_embedder: Embedder) -> None:
    spoil(folder)
    build_index(MixedFiles([folder]), tmp_path / "index", "flat", default_embedder, progress=False)
    with Retriever.open(tmp_path / "index") as retriever:
        for question, answer in [
            ("How long is the leave?", "leave.md"),
            ("What do rockets burn?", "sub/page.html"),
            ("How do glaciers move?", "sub/report.pdf"),
            ("What must I bring on the first day?", "sub/welcome.docx"),
            ("How many strings has a violin?", "7"),
            ("Which bird is silent?", "rows.json:1"),
        ]:
            assert retriever.search(question, 1)[0].document.id == answer
