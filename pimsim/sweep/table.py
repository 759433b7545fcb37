"""Table: points' results as columns of plain types, equal for equal rows, and their files in Parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
POINT, ERROR = "point", "error"
WHOLE = "provenance"  # what a reader judges, not what a plot shows: its parts stay together
ROWS_A_GROUP = 1 << 16


def flat(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a result by dotted name; lists, and the parts of its provenance, as JSON."""
    for name, value in result.items():
        if isinstance(value, Mapping) and prefix != f"{WHOLE}.":
            yield from flat(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, bool | int | float | str):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping | list | tuple):
            yield f"{prefix}{name}", json.dumps(value)
        else:
            yield f"{prefix}{name}", value.item() if hasattr(value, "item") else str(value)


def table(rows: Sequence[Row]) -> pa.Table:
    """A column for each name, in the order in which rows name them; numbers that are not all whole are float64."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    return pa.table(columns)


def _column(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if not kinds or kinds == {str}:
        return pa.array(values, pa.string())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(value is None or -(1 << 63) <= value < 1 << 63 for value in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])


def write(rows: Sequence[Row], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a Parquet file, which is there whole or not at all."""
    contents = table(rows)
    if metadata:
        contents = contents.replace_schema_metadata(dict(metadata))
    whole(path, lambda partial: pq.write_table(contents, partial, compression="zstd", row_group_size=ROWS_A_GROUP))


def whole(path: Path, write: Any) -> None:
    """Let `write` write a file beside `path`, which then takes its place at once."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:  # interrupted, too
        partial.unlink(missing_ok=True)
        raise


def read(path: Path) -> list[Row]:
    """The rows of a file; a value that a row did not name is None."""
    return read_table(path).to_pylist()


def read_table(path: Path) -> pa.Table:
    """Read a file in this thread alone: Arrow's own threads may abort a process that ends soon after (its issue
    50482).
    """
    with pq.ParquetFile(pa.BufferReader(path.read_bytes()), pre_buffer=False) as file:
        return file.read(use_threads=False)


def merged(parts: Iterable[list[Row]], names: Sequence[str]) -> list[Row]:
    """All rows by their points, which begin with the point, `names` and the error; the rest without what is None."""
    rows = sorted((row for part in parts for row in part), key=lambda row: row[POINT])
    first = (POINT, *names, ERROR)
    return [
        {name: row.get(name) for name in first}
        | {name: value for name, value in row.items() if name not in first and value is not None}
        for row in rows
    ]
