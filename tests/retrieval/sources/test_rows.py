"""Rows of JSON, JSON lines, CSV and Parquet: their documents, their places, and what is wrong with the others."""

import codecs
import gzip
import io
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from retrieval.corpus import Document
from retrieval.sources import csv_rows
from retrieval.sources.rows import Columns, documents_of_rows
from tests.retrieval.sources.row_files import read, write_rows

ROWS: list[dict[str, Any]] = [
    {"id": 7, "title": "Seven", "text": "text seven"},
    {"id": "x", "title": None, "text": "é"},
]
MISSING = "'text' is missing; every row needs a string 'id' and a string 'text'"
EXPECTED = [Document("7", "Seven", "text seven"), Document("x", "", "é")]


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
    assert [document.id for document in documents] == ["-3", "a.jsonl:4"]
    assert said == [
        "a.jsonl:1: 'id' is a JSON boolean; write it as a string",
        "a.jsonl:2: 'id' is a JSON number; write it as a string",
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


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", b" [ ] "),
        ("a.json", b" \n"),
        ("a.jsonl", b"\n \n"),
        ("a.csv", b"id,text\n"),
        ("a.csv", b"id,text\n\n\n"),
    ],
)
def test_files_without_rows_are_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert read(tmp_path / name) == ([], [f"{name}: holds no rows"])
    parquet.write_table(
        pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())}), tmp_path / "a.parquet"
    )
    assert read(tmp_path / "a.parquet") == ([], ["a.parquet: holds no rows"])


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_id_is_a_missing_one(tmp_path: Path, blank: str) -> None:
    for name, first in (("a.jsonl", 1), ("a.json", 1), ("a.csv", 2), ("a.parquet", 1)):
        file = write_rows(tmp_path / name, [{"id": blank, "text": "one"}, {"id": "b", "text": "two"}])
        assert [document.id for document in read(file)[0]] == [f"{name}:{first}", "b"]
        documents, said = read(file, Columns("id"))
        assert [document.id for document in documents] == ["b"]
        assert said == [f"{name}:{first}: 'id' is blank; fill it in or leave the row out"]


def test_json_lines_in_other_encodings_and_packed(tmp_path: Path) -> None:
    text = '{"id": "a", "text": "café"}\n{"id": "b", "text": "中文"}\n'
    for encoding, fallback in [
        ("utf-16", None),
        ("utf-8-sig", None),
        ("utf-8", "latin-1"),
        ("utf-16-le", "utf-16-le"),
        ("gb18030", "gb18030"),
    ]:
        for name in ("a.jsonl", "A.JSONL.GZ", "a.jsonl.gz"):
            data = text.encode(encoding)
            (tmp_path / name).write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
            kind = ".jsonl.gz" if name.lower().endswith(".gz") else ".jsonl"
            rows = documents_of_rows(tmp_path / name, name, kind, Columns(), fallback)
            assert [row.text for _, row in rows if isinstance(row, Document)] == ["café", "中文"]


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


@pytest.mark.parametrize(
    "above", ["\n\n", " \r\n\t\r\n", ";;\n", '"";""\n\n', "sep=;\n", '"SEP=;"\r\n', "\n\nsep=;\n\n"]
)
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_what_may_stand_above_the_header_of_csv(tmp_path: Path, above: str, mark: bytes) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(mark + f"{above}id;text\n1;x, y, z\n2;a;b;c\n".encode())
    documents, said = read(file)
    assert documents == [Document("1", "", "x, y, z")]
    assert said == [f"a.csv:{above.count(chr(10)) + 3}: has 4 cells, where the header has 2"]


def test_the_separator_may_be_any_that_is_named(tmp_path: Path) -> None:
    for name in ("a.csv", "a.tsv"):
        (tmp_path / name).write_text("sep=~\nid~text\n1~x;y,z\n")
        assert read(tmp_path / name) == ([Document("1", "", "x;y,z")], [])
        (tmp_path / name).write_text("\n" * 100)
        assert "has no column 'text' but no columns" in read(tmp_path / name)[1][0]


def test_wrong_rows_of_csv_are_named_by_their_first_line(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('id,text\n1,"two\nlines"\n2,too,many\n3,\n4,good\n')
    documents, said = read(file)
    assert [document.id for document in documents] == ["1", "4"]
    assert [line.partition(";")[0] for line in said] == [
        "a.csv:4: has 3 cells, where the header has 2",
        "a.csv:5: 'text' is blank",
    ]
    file.write_text("id,body\n1,x\n")
    assert read(file) == ([], ["a.csv: has no column 'text' but 'id', 'body'; name the right one by --text-field"])


UNPAIRED = "its quotation marks do not pair; write those inside a quoted cell twice"


@pytest.mark.parametrize(
    ("row", "text", "said"),
    [
        ('2,"he said "no" twice"', 'he said "no" twice', []),
        ('2,"he said "no, never" twice"', 'he said "no, never" twice', []),
        ('2,"he said ""no"" and "yes" twice"', 'he said "no" and "yes" twice', []),
        ('2,""No" is what he said"', '"No" is what he said', []),
        (r'2,"he said \"no\" twice"', 'he said "no" twice', []),
        (r'2,"he said \"no\", twice"', 'he said "no", twice', []),
        (r'2,"he said \"no\""', 'he said "no"', []),
        (r'2,"\"No\", he said, and C:\dir"', '"No", he said, and C:\\dir', []),
        ('2,"A" and "B"', None, [f"3: {UNPAIRED}"]),
        ('2,"A" and more', None, [f"3: {UNPAIRED}"]),
        ('2,"5" x 7" disk"', None, [f"3: {UNPAIRED}"]),
        ('2,5" disk', '5" disk', []),
        ('2,"he said "no twice"', None, [f"3: {UNPAIRED}"]),
        ('2,"he said "no", twice"', None, [f"3: {UNPAIRED}"]),
        ('2,"no end', None, [f"3: {UNPAIRED}"]),
        ('2,"one "stray\nline two"', None, [f"3: {UNPAIRED}", "4: has 1 cells, where the header has 2"]),
        (
            '2,"line one\nline "two"\nthree"',
            None,
            [f"3: {UNPAIRED}", "4: has 1 cells, where the header has 2", "5: has 1 cells, where the header has 2"],
        ),
    ],
)
@pytest.mark.parametrize("after", ["3,z\n4,v\n", '3,"z"\n4,"v"\n', '"3","z"\n"4","v"\n'])
def test_a_stray_quotation_mark_costs_no_other_row(
    tmp_path: Path, row: str, text: str | None, said: list[str], after: str
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"id,text\n1,x\n{row}\n{after}")
    documents, reasons = read(file)
    expected = [
        Document("1", "", "x"),
        *([Document("2", "", text)] if text else []),
        Document("3", "", "z"),
        Document("4", "", "v"),
    ]
    assert (documents, reasons) == (expected, [f"a.csv:{line}" for line in said])


def test_a_wrong_row_of_csv_that_is_too_long_to_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "LONGEST_CELL", 200)
    file = tmp_path / "a.csv"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        others = [(str(n), f"é {n}") for n in range(3, 2000)]
        file.write_text('id,text\n1,x\n2,"no end\n' + "".join(f"{n},{text}\n" for n, text in others), encoding=encoding)
        documents, said = read(file)
        assert [(document.id, document.text) for document in documents] == [("1", "x"), *others]
        assert said == [f"a.csv:3: {UNPAIRED}"]


@pytest.mark.parametrize("mark", ['"', '""', '"""', 'a "b', '\\"'])
def test_every_row_of_csv_may_have_a_stray_mark(tmp_path: Path, mark: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,text\n" + f'1,"words {mark} and\n' * 2000 + "2,z\n")
    read_lines = 0

    class Counted(io.StringIO):
        def readline(self, size: int | None = -1, /) -> str:
            nonlocal read_lines
            read_lines += 1
            return super().readline(size)

    rows = list(csv_rows.csv_rows(Counted(file.read_text(), newline=""), ","))
    assert rows[-1][1] == ["2", "z"]
    assert read_lines < 3 * 2002


def test_a_wrong_row_of_csv_keeps_nothing_of_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "LONGEST_CELL", 1000)
    text = io.StringIO('id,text\n1,"no end\n' + "2,fine text\n" * 100_000)
    tracemalloc.start()
    try:
        assert sum(cells is not None for _, cells in csv_rows.csv_rows(text, ",")) == 100_001
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"Hello" he said.', '"Hello" he said.'),
        ('"No" and "no" again', '"No" and "no" again'),
        ('"He said "no" twice"', '"He said "no" twice"'),
        ('5" disk', '5" disk'),
        ('"never closed', '"never closed'),
        ('"', '"'),
        ('"whole, ""quoted"" cell"', 'whole, "quoted" cell'),
        ('"two\nlines\n"', "two\nlines\n"),
    ],
)
@pytest.mark.parametrize("after", ["3\tz", '3\t"z"', '3\tz"', '3\t"z'])
def test_marks_of_tsv_are_text_unless_they_enclose_a_cell(tmp_path: Path, cell: str, text: str, after: str) -> None:
    file = tmp_path / "a.tsv"
    file.write_text(f"id\ttext\n2\t{cell}\n{after}\n4\tv\n")
    last = after.partition("\t")[2]
    expected = [("2", text), ("3", "z" if last == '"z"' else last), ("4", "v")]
    documents, said = read(file)
    assert [(document.id, document.text) for document in documents] == expected
    assert said == []


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ('id,text,"a;b;c;d"', "1,x,y"),
        ("id|text|a,b,c,d", "1|x|y"),
        ("id;text;a", "1;x;y"),
        ("id\ttext", "1\tx"),
        ("text", "x"),
    ],
)
def test_the_separator_is_that_of_the_columns(tmp_path: Path, header: str, row: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n{row}\n")
    assert [document.text for document in read(tmp_path / "a.csv")[0]] == ["x"]


def test_columns_of_the_same_name_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text,text\n1,x,y\n")
    assert read(tmp_path / "a.csv") == ([], ["a.csv: has 2 columns 'text'; rename all but one of them"])
    parquet.write_table(pa.table([["1"], ["x"], ["y"]], names=["id", "text", "id"]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ([], ["a.parquet: has 2 columns 'id'; rename all but one of them"])
    (tmp_path / "b.csv").write_text("id,text,,\n1,x,,\n")  # as spreadsheets write unused columns
    assert read(tmp_path / "b.csv")[0][0].text == "x"


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


def test_a_gzip_file_with_garbage_behind_it_says_up_to_where_it_was_read(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"text {n * n}"} for n in range(5000)]
    file = write_rows(tmp_path / "a.jsonl.gz", rows)
    file.write_bytes(file.read_bytes() + b"garbage")
    documents, said = read(file)
    assert len(documents) > 1000
    assert said[0].startswith(f"a.jsonl.gz: not a complete gzip file, readable up to row {len(documents)} (Not a gzip")
    assert said[0].endswith("; download or pack it again")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_integer_of_very_many_digits_is_named_without_advice_on_python(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"id": 1' + "0" * 5000 + ', "text": "x"}\n{"id": 2, "text": "y"}')
    documents, said = read(tmp_path / name)
    assert [document.id for document in documents] == ["2"]
    assert said == [f"{name}:1: holds an integer of more digits than are read; write it as a string"]
