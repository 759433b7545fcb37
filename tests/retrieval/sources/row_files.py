"""Row files: files of rows as other programs write them, and what is read of them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from retrieval.corpus import Document
from retrieval.sources.rows import READERS, Columns, documents_of_rows
from retrieval.sources.unreadable import Unreadable


def read(path: Path, columns: Columns | None = None, fallback: str | None = None) -> tuple[list[Document], list[str]]:
    """Documents, and what was said about the rest, without the folder."""
    documents, said = [], []
    kind = next(kind for kind in sorted(READERS, key=len, reverse=True) if path.name.endswith(kind))
    try:
        for _, each in documents_of_rows(path, path.name, kind, columns or Columns(), fallback):
            if isinstance(each, Document):
                documents.append(each)
            else:
                said.append(str(each))
    except Unreadable as error:
        said.append(str(error))
    return documents, [line.replace(f"{path.parent}/", "") for line in said]


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
