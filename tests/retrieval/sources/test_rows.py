"""Rows of JSON, JSON lines, CSV and Parquet: their documents, their places, and what is wrong with the others."""

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from retrieval.corpus import Document
from retrieval.sources.rows import READERS, Columns, documents_of_rows
from retrieval.sources.unreadable import Unreadable


def read(path: Path, columns: Columns | None = None, fallback: str | None = None) -> tuple[list[Document], list[str]]:
    """Documents, and what was said about the rest, without the folder."""
    documents, said = [], []
    kind = next(kind for kind in sorted(READERS, key=len, reverse=True) if path.name.endswith(kind))
    try:
        for each in documents_of_rows(path, path.name, kind, columns or Columns(), fallback):
            if isinstance(each, Document):
                documents.append(each)
            else:
                said.append(str(each))
    except Unreadable as error:
        said.append(str(error))
    return documents, [line.replace(f"{path.parent}/", "") for line in said]


ROWS: list[dict[str, Any]] = [
    {"id": 7, "title": "Seven", "text": "text seven"},
    {"id": "x", "title": None, "text": "é"},
]
MISSING = "'text' is missing; every row needs a string 'id' and a string 'text'"
EXPECTED = [Document("7", "Seven", "text seven"), Document("x", "", "é")]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    kind = path.suffix
    if kind in (".jsonl", ".ndjson", ".gz"):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if kind == ".gz" else data)
    elif kind == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False))
    elif kind == ".parquet":
        columns = {name: [None if row[name] is None else str(row[name]) for row in rows] for name in rows[0]}
        parquet.write_table(pa.table(columns), path)
    else:
        mark = "\t" if kind == ".tsv" else ","
        lines = [mark.join(rows[0]), *(mark.join(str(value or "") for value in row.values()) for row in rows)]
        path.write_text("\r\n".join(lines))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson", "a.json", "a.csv", "a.tsv", "a.parquet"])
def test_every_kind_holds_the_same_rows(tmp_path: Path, name: str) -> None:
    assert read(write_rows(tmp_path / name, ROWS)) == (EXPECTED, [])


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_columns_are_named_and_rows_without_an_id_are_numbered(tmp_path: Path, name: str) -> None:
    rows = [{"number": 1, "head": "H", "body": "one"}, {"number": 2, "head": "", "body": "two"}]
    file = write_rows(tmp_path / name, rows)
    named = read(file, Columns("number", "head", "body"))
    assert named == ([Document("1", "H", "one"), Document("2", "", "two")], [])
    documents, said = read(file, Columns(text="body"))
    first = 2 if name == "a.csv" else 1  # of a CSV, the header is line 1
    assert [document.id for document in documents] == [f"{name}:{first}", f"{name}:{first + 1}"]
    assert said == []
    documents, said = read(file, Columns("missing", None, "body"))
    assert documents == []
    assert all("'missing'" in line for line in said)
    assert said


def test_integers_are_ids_but_other_numbers_are_not(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": [1, 2**60], "text": ["one", "two"]}), file)
    assert [document.id for document in read(file)[0]] == ["1", str(2**60)]
    file = write_rows(tmp_path / "a.jsonl", [{"id": value, "text": "x"} for value in (True, 1.5, -3, "", [1])])
    documents, said = read(file)
    assert [document.id for document in documents] == ["-3"]
    assert said == [
        "a.jsonl:1: 'id' is a JSON boolean; write it as a string",
        "a.jsonl:2: 'id' is a JSON number; write it as a string",
        "a.jsonl:4: 'id' is blank; fill it in or leave the row out",
        "a.jsonl:5: 'id' is a JSON array; write it as a string",
    ]


def test_wrong_rows_of_json_lines_are_named_and_the_others_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"id": "a", "text": "x"}\n\n{oops\n[1]\n{"id": "b"}\n\xff\n{"id": "c", "text": "y", "k": [1]}')
    documents, said = read(file)
    assert [document.id for document in documents] == ["a", "c"]
    assert documents[1].extra == {"k": [1]}
    assert [line.partition(";")[0].partition(" (")[0] for line in said] == [
        "a.jsonl:3: not JSON",
        "a.jsonl:4: the row is a JSON array",
        "a.jsonl:5: 'text' is missing",
        "a.jsonl:6: not UTF-8",
    ]


def test_json_is_a_list_an_object_or_several(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for text, ids in [
        ('  [{"id": 1, "text": "x"}, {"id": 2, "text": "y"}] ', ["1", "2"]),
        ('{"id": 1, "text": "x",\n "more": {"a": 1.5}}', ["1"]),
        ('{"id": 1, "text": "x"}\n{"id": 2, "text": "y"}', ["1", "2"]),
        ("[]", []),
    ]:
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            file.write_text(text, encoding=encoding)
            documents, said = read(file)
            assert ([document.id for document in documents], said) == (ids, [])
    assert read(file)[0] == []


@pytest.mark.parametrize(
    "text", ['[{"id": 1, "text": "x"}, {"id":', '[{"id": 1, "text": "x"}, oops]', '[{"id": 1, "text": "x"}']
)
def test_json_that_breaks_off_keeps_what_came_before(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    documents, said = read(file)
    assert documents == [Document("1", "", "x")]
    assert len(said) == 1
    assert said[0].startswith("a.json:2: not JSON from this row on (")


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(codecs.BOM_UTF8 + b'id;text\r\n1;"two\r\nlines; ""quoted"""\r\n\r\n2;plain\r\n')
    assert read(file)[0] == [Document("1", "", 'two\r\nlines; "quoted"'), Document("2", "", "plain")]
    file.write_text("id,text\n1,caf\u00e9\n", encoding="latin-1")
    assert read(file) == (
        [],
        ["a.csv: not UTF-8 (byte 14); save it as UTF-8, or name its encoding, as in --encoding latin-1"],
    )
    assert read(file, fallback="latin-1")[0] == [Document("1", "", "café")]
    file.write_text("id,text\n1," + "word " * 100_000 + "\n")  # more than csv reads by itself
    assert len(read(file)[0][0].text) == 500_000


def test_wrong_rows_of_csv_are_named_by_their_first_line(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('id,text\n1,"two\nlines"\n2,too,many\n3,\n4,good\n5,"no end\n')
    documents, said = read(file)
    assert [document.id for document in documents] == ["1", "4"]
    assert [line.partition(";")[0].partition(" (")[0] for line in said] == [
        "a.csv:4: has 3 cells, where the header has 2",
        "a.csv:5: 'text' is blank",
        "a.csv:7: not CSV from here on",
    ]
    file.write_text("id,body\n1,x\n")
    assert read(file) == ([], ["a.csv: has no column 'text' but 'id', 'body'; name the right one by --text-field"])


def test_parquet_is_read_in_batches_and_only_what_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    table = pa.table({"id": range(1000), "text": [f"text {n}" for n in range(1000)], "vector": [[0.0] * 8] * 1000})
    parquet.write_table(table, file)
    documents, said = read(file)
    assert (len(documents), said) == (1000, [])
    assert documents[999] == Document("999", "", "text 999")
    parquet.write_table(pa.table({"id": [1, 2], "text": ["x", None]}), file)
    assert read(file) == (
        [Document("1", "", "x")],
        ["a.parquet:2: 'text' is missing; every row needs a string 'id' and a string 'text'"],
    )
    parquet.write_table(pa.table({"id": [1], "text": [b"bytes"]}), file)
    assert read(file)[1] == ["a.parquet:1: 'text' is a JSON bytes; write it as a string"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.json"])
@pytest.mark.parametrize("data", [b"PAR1 not really PAR1", b"\x1f\x8b\x08 broken", b"\0\1\2", b"oops"])
def test_files_of_another_kind_are_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    documents, said = read(tmp_path / name)
    assert documents == []
    assert len(said) == 1
    assert said[0].startswith(name)


def test_a_gzip_file_that_is_cut_short_keeps_what_came_before(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"text {n * n}"} for n in range(5000)]
    file = write_rows(tmp_path / "a.jsonl.gz", rows)
    file.write_bytes(file.read_bytes()[:-500])
    documents, said = read(file)
    assert 1000 < len(documents) < 5000
    assert len(said) == 1
    assert "Compressed file ended" in said[0]
