"""Parquet rows: all that are right are read, few at a time, and what is wrong is named by its rows."""

import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from retrieval.corpus import Document
from retrieval.sources.rows import Columns, documents_of_rows
from tests.retrieval.sources.row_files import read


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


def test_of_long_rows_of_parquet_few_are_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": range(100), "text": ["x" * (1 << 20)] * 100}), file)
    tracemalloc.start()
    try:
        rows = documents_of_rows(file, file.name, ".parquet", Columns(), None)
        lengths = [len(each.text) for _, each in rows if isinstance(each, Document)]
        assert lengths == [1 << 20] * 100
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_text_of_parquet_that_is_not_marked_as_text(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": [b"a", b"b", b"c"], "text": ["é".encode(), b"\xe9", b"z"]}), file)
    documents, said = read(file)
    assert documents == [Document("a", "", "é"), Document("c", "", "z")]
    assert said == ["a.parquet:2: not UTF-8 (unexpected end of data, byte 1 of a value)"]
    for kind in (pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.large_binary()):
        parquet.write_table(pa.table({"text": pa.array(["x", "y", "x"]).cast(kind)}), file)
        assert [document.text for document in read(file)[0]] == ["x", "y", "x"]


@pytest.mark.parametrize(
    ("name", "kind", "values", "right"),
    [
        ("id", pa.timestamp("us"), [-(2**62), 2], "text or integers"),
        ("id", pa.float64(), [1.0, 2.0], "text or integers"),
        ("id", pa.bool_(), [True, False], "text or integers"),
        ("text", pa.int64(), [1, 2], "text"),
        ("title", pa.date32(), [1, 2], "text"),
    ],
)
def test_a_wrong_column_of_parquet_is_named_once(
    tmp_path: Path, name: str, kind: pa.DataType, values: list[Any], right: str
) -> None:
    file = tmp_path / "a.parquet"
    columns = {"id": ["a", "b"], "text": ["x", "y"], name: pa.array(values, kind)}
    parquet.write_table(pa.table(columns), file)
    begin = f"a.parquet: the column {name!r} is of type {kind}, not {right}; convert"
    documents, said = read(file)
    assert documents == []
    assert len(said) == 1
    assert said[0].startswith(begin)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("encoding", ["dictionary", "DELTA_BYTE_ARRAY", "dictionary, of which Arrow does not know"])
def test_long_texts_that_are_equal_are_not_in_memory_all_at_once(tmp_path: Path, encoding: str, mixed: bool) -> None:
    file = tmp_path / "a.parquet"
    texts = ["word " * 200_000] * 300 + [str(n) * 200 for n in range(20_000 if mixed else 0)]
    table = pa.table({"id": list(map(str, range(len(texts)))), "text": texts})
    if encoding == "dictionary":
        table = table.set_column(1, "text", table["text"].dictionary_encode())
    how = {"use_dictionary": False, "column_encoding": {"text": encoding}} if encoding.startswith("DELTA") else {}
    parquet.write_table(table, file, store_schema=False, **how)
    del table, texts
    before = pa.total_allocated_bytes()
    most = count = 0
    for _, each in documents_of_rows(file, file.name, ".parquet", Columns(), None):
        assert isinstance(each, Document)
        count += 1
        if count % 10 == 1:
            most = max(most, pa.total_allocated_bytes() - before)
    assert count == (20_300 if mixed else 300)
    assert most < 128 << 20  # all of them take 300 MB


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("column", [0, 1])
def test_a_damaged_group_of_parquet_costs_no_other(tmp_path: Path, compression: str, column: int) -> None:
    file = tmp_path / "a.parquet"
    table = pa.table({"id": [f"id-{n}" for n in range(500)], "text": [f"text {n * n}" for n in range(500)]})
    parquet.write_table(table, file, row_group_size=100, compression=compression, use_dictionary=False)
    where = parquet.ParquetFile(file).metadata.row_group(2).column(column).data_page_offset
    data = bytearray(file.read_bytes())
    data[where : where + 300] = b"\xff" * 300
    file.write_bytes(data)
    documents, said = read(file)
    assert [document.id for document in documents] == [f"id-{n}" for n in range(500) if n // 100 != 2]
    assert len(said) == 1
    assert said[0].startswith("a.parquet:201-300: damaged (")
    assert "\n" not in said[0]


def test_a_row_of_parquet_that_is_not_utf_8_costs_no_other(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    table = pa.table({"id": ["1", "2", "3"], "text": ["one", "two!", "three"]})
    for dictionary in (True, False):
        parquet.write_table(table, file, compression="none", use_dictionary=dictionary, write_statistics=False)
        file.write_bytes(file.read_bytes().replace(b"two!", b"tw\xff!"))
        documents, said = read(file)
        assert [document.id for document in documents] == ["1", "3"]
        assert said == ["a.parquet:2: not UTF-8 (invalid start byte, byte 3 of a value)"]
