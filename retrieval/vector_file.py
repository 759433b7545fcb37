"""Vector file: vectors on disk, as rows or as a FAISS index, read and written by system calls and never through a map.

A map of a file that was cut, or that lies on a full disk, ends the process by a signal; here both are errors.
"""

import errno
import os
import tokenize
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np

from retrieval.errors import EmbedderError


class VectorFile:
    """Rows of float32 [count, dim] in a new file, whose place on the disk is taken at once.

    Raises OSError, with the file's name, if the disk has no room or fails.
    """

    def __init__(self, path: Path, count: int, dim: int) -> None:
        self.shape = (count, dim)
        self._path = path
        self._row_bytes = dim * 4
        self._file = path.open("x+b", buffering=0)
        try:
            # hours of embedding later would be late to learn that the disk is full
            os.posix_fallocate(self._file.fileno(), 0, max(1, count * self._row_bytes))
        except OSError as error:
            self._file.close()
            raise OSError(error.errno, error.strerror, str(path)) from error

    def __len__(self) -> int:
        return self.shape[0]

    def __setitem__(self, rows: slice, vectors: np.ndarray) -> None:
        """Write contiguous rows."""
        start, stop, _ = rows.indices(self.shape[0])
        data = np.ascontiguousarray(vectors, dtype=np.float32)
        if data.shape != (stop - start, self.shape[1]):
            raise ValueError(f"{list(data.shape)} vectors for rows {start} to {stop} of {list(self.shape)}")
        view, offset = data.data.cast("B"), start * self._row_bytes
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[written:], offset + written

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """The rows of a slice without a step, or of an array of row numbers, as a new array."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self.shape[0])
            return self._read(start, stop - start)
        vectors = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        for place, row in enumerate(rows):
            vectors[place] = self._read(int(row), 1)[0]
        return vectors

    def _read(self, start: int, count: int) -> np.ndarray:
        vectors = np.empty((count, self.shape[1]), dtype=np.float32)
        _read_into(self._file.fileno(), vectors, start * self._row_bytes, self._path)
        return vectors

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class GivenVectors:
    """The rows of a .npy file of floats [count, dim]. Raises EmbedderError, naming it, if it is anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: Any = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise EmbedderError(f"{path}: the embeddings file does not exist; check the path") from error
        except OSError as error:
            raise EmbedderError(f"{path}: the embeddings file cannot be read ({error.strerror})") from error
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        if self._file.read(2) == b"PK":
            raise EmbedderError(f"{self.path}: holds an .npz archive; embeddings are one array, saved with numpy.save")
        self._file.seek(0)
        try:
            version = np.lib.format.read_magic(self._file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self._by_columns, self.dtype = read(self._file)
        except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:
            raise EmbedderError(
                f"{self.path}: not a .npy file of numbers ({error}); save it with numpy.save"
            ) from error
        if len(self.shape) != 2 or self.dtype not in (np.float16, np.float32, np.float64):
            raise EmbedderError(
                f"{self.path}: holds {self.dtype} {list(self.shape)}; embeddings are float16, float32 or float64 "
                "[documents, dim]"
            )
        self._begin = self._file.tell()
        size, needed = (
            os.fstat(self._file.fileno()).st_size,
            self._begin + self.dtype.itemsize * int(np.prod(self.shape)),
        )
        if size < needed:
            raise EmbedderError(f"{self.path}: cut short: {size} bytes of {needed}; copy or save it again")

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The rows of a slice without a step, as a new array."""
        start, stop, _ = rows.indices(len(self))
        count, dim = stop - start, int(self.shape[1])
        if not self._by_columns:
            part = np.empty((count, dim), dtype=self.dtype)
            self._fill(part, start * dim)
            return part
        columns = np.empty((dim, count), dtype=self.dtype)
        for number, column in enumerate(columns):
            self._fill(column, number * len(self) + start)
        return columns.T

    def _fill(self, array: np.ndarray, first: int) -> None:
        try:
            _read_into(self._file.fileno(), array, self._begin + first * self.dtype.itemsize, self.path)
        except OSError as error:
            raise EmbedderError(f"{self.path}: the embeddings file cannot be read ({error.strerror})") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


_callback_writer: Any = faiss.PyCallbackIOWriter  # type: ignore[attr-defined]


def write_vectors(index: Any, path: Path) -> None:
    """Write a FAISS index to a new file. Raises OSError, with the file's name, if it cannot be written whole."""
    # FAISS's own writer does not say when the last bytes of a file find no room
    try:
        with path.open("xb") as file:
            faiss.write_index(index, _callback_writer(file.write))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def _read_into(descriptor: int, array: np.ndarray, offset: int, path: Path) -> None:
    """Fill a contiguous array from a file; OSError if the file ends before it is full."""
    view = array.data.cast("B") if array.size else memoryview(b"")
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise OSError(0, f"it ends at byte {offset}", str(path))
        view, offset = view[count:], offset + count
