"""Mixed files: the documents of folders and files of many formats, where what cannot be read is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from retrieval.corpus import Document
from retrieval.errors import CorpusError
from retrieval.sources.converted import CONVERTERS, convert
from retrieval.sources.rows import READERS, Columns, documents_of_rows
from retrieval.sources.unreadable import Unreadable
from retrieval.sources.walk import FoundFile, walk

KINDS = (*CONVERTERS, *READERS)
NAMED_ROWS = 20  # wrong rows of a file that are named one by one; the wrong name of a column makes every row wrong


class MixedFiles:
    """The documents of files: one a file, or one a row of JSON, CSV and Parquet.

    A file's id is its path below the folder that holds all `paths`, the order is that of the ids, and rows stand in
    the order of their file. `skip` is called with each file that cannot be read and the first NAMED_ROWS such rows of
    a file, then with how many more rows there are; `skipped` counts them all. If `strict`, the first is raised
    instead. `fallback` is the encoding of text that is not UTF-8.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        columns: Columns | None = None,
        fallback: str | None = None,
        strict: bool = False,
        skip: Callable[[Unreadable], None] = lambda _: None,
    ) -> None:
        self.skipped = 0
        self._wrong_rows = 0  # of the file that is being read
        self._paths = paths
        self._columns = columns or Columns()
        self._fallback = fallback
        self._strict = strict
        self._report = skip

    @cached_property
    def files(self) -> list[FoundFile]:
        """The files of the kinds that are read. Raises CorpusError for a path that does not exist."""
        files = []
        for file in walk(self._paths, self._skip):
            if _kind(file) is None:
                suffix = file.path.suffix
                what = f"{suffix} files are" if suffix else "a file without a suffix is"
                self._skip(Unreadable(str(file.path), f"{what} not read (but {', '.join(KINDS)})"))
            else:
                files.append(file)
        if not files:
            raise CorpusError(f"{self}: there is no file to read; known are {', '.join(KINDS)}")
        return files

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def documents(self, progress: Callable[[int], None] | None = None) -> Iterator[Document]:
        """See `retrieval.source.Source`."""
        place_of: dict[str, str] = {}
        for file in self.files:
            read = _Tally(progress)
            self._wrong_rows = 0
            unreadable = None
            try:
                for where, document in self._documents(file, read.add):
                    first = place_of.setdefault(document.id, where)
                    if first == where:
                        yield document
                    else:
                        self._skip_row(Unreadable(where, f"id {document.id!r} is already used in {first}"))
            except Unreadable as error:
                unreadable = error
            if (more := self._wrong_rows - NAMED_ROWS) > 0:
                self._report(Unreadable(str(file.path), f"and {more} more {'row' if more == 1 else 'rows'} like these"))
            if unreadable is not None:
                self._skip(unreadable)
            read.add(file.size - read.count)
        if not place_of:
            raise CorpusError(f"{self}: no document could be read")

    def _documents(self, file: FoundFile, progress: Callable[[int], None]) -> Iterator[tuple[str, Document]]:
        """The documents of a file, and where each of them is."""
        kind = _kind(file)
        assert kind is not None
        if file.size == 0:
            raise Unreadable(str(file.path), "empty")
        if kind in CONVERTERS:
            converted = convert(file.path, kind, self._fallback)
            for unread in converted.unread:
                self._skip(unread)
            yield str(file.path), Document(file.name, converted.title, converted.text)
            return
        rows = documents_of_rows(file.path, file.name, kind, self._columns, self._fallback, progress)
        for where, document in rows:
            if isinstance(document, Unreadable):
                self._skip_row(document)
            else:
                yield where, document

    def _skip(self, error: Unreadable) -> None:
        if self._strict:
            raise error
        self.skipped += 1
        self._report(error)

    def _skip_row(self, error: Unreadable) -> None:
        self._wrong_rows += 1
        if self._wrong_rows <= NAMED_ROWS:
            self._skip(error)
        else:
            self.skipped += 1

    def __str__(self) -> str:
        return ", ".join(map(str, self._paths))


class _Tally:
    """Passes numbers of bytes on, and counts them."""

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self.count = 0
        self._progress = progress

    def add(self, count: int) -> None:
        self.count += count
        if self._progress is not None:
            self._progress(count)


def _kind(file: FoundFile) -> str | None:
    name = file.path.name.lower()
    return next((kind for kind in sorted(KINDS, key=len, reverse=True) if name.endswith(kind)), None)
