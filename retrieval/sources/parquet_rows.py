"""Parquet rows: the values of each row of a Parquet file, few in memory at a time, and which rows are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

BATCH_BYTES = 16 << 20  # about, of the rows that are in memory at a time
MOST_ROWS = 1024  # that are in memory at a time
# the same, of texts that are written as what differs from the one before: the file does not say how long they are
MOST_ROWS_OF_UNKNOWN_LENGTH = 16
DICTIONARY = {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}
WITH_DICTIONARY = DICTIONARY | {"PLAIN", "RLE", "BIT_PACKED"}  # encodings that Arrow reads into a dictionary


def parquet_rows(path: Path, columns: list[str]) -> Iterator[tuple[int, int, dict[str, Any] | str]]:
    """The first and the last of some rows, counted from 1, and the values of that one row or why there are none.

    A group of rows that is damaged is named from the first row on that cannot be read, and the next group is read. What
    is not UTF-8 in a column of text is given as bytes. Raises OSError for a file that the system cannot read.
    """
    metadata = parquet.read_metadata(path)
    last = 0  # row of the group
    for number in range(metadata.num_row_groups):
        group = _Group(metadata.row_group(number), columns)
        row = last
        last += group.rows
        try:
            with parquet.ParquetFile(path, metadata=metadata, read_dictionary=group.dictionaries) as file:
                for batch in file.iter_batches(group.rows_at_once, row_groups=[number], columns=columns):
                    for scalars in zip(*batch.columns, strict=True):  # one row at a time: those of a batch may be long
                        row += 1
                        yield row, row, dict(zip(columns, map(_value, scalars), strict=True))
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if row < last:
                yield row + 1, last, f"damaged ({' '.join(str(error).split())[:200]})"


class _Group:
    """How a group of rows is read: `rows_at_once`, and the columns in which equal texts stay one in memory."""

    def __init__(self, group: parquet.RowGroupMetaData, columns: list[str]) -> None:
        chunks = [group.column(number) for number in range(group.num_columns)]
        encodings = {chunk.path_in_schema: set(chunk.encodings) for chunk in chunks}
        in_dictionaries = [name for name in columns if DICTIONARY & encodings[name]]
        self.dictionaries = [name for name in in_dictionaries if encodings[name] <= WITH_DICTIONARY]
        unknown = self.dictionaries != in_dictionaries or any("DELTA_BYTE_ARRAY" in encodings[name] for name in columns)
        self.rows = group.num_rows
        rows = BATCH_BYTES * self.rows // max(1, group.total_byte_size)
        self.rows_at_once = min(max(rows, 1), MOST_ROWS_OF_UNKNOWN_LENGTH if unknown else MOST_ROWS)


def _value(scalar: pyarrow.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        text = scalar.value if isinstance(scalar, pyarrow.DictionaryScalar) else scalar
        return text.as_buffer().to_pybytes()
