"""Source: where the documents of an index come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from retrieval.corpus import Document, Fields, read_corpus


class Source(Protocol):
    """Documents that are read one at a time, in an order that depends on nothing but the source."""

    @property
    def size(self) -> int:
        """Bytes that will be read, to tell how much is left."""

    def documents(self, progress: Callable[[int], None] | None = None) -> Iterator[Document]:
        """The documents, each with an id of its own; there is at least one.

        `progress` is called with the number of bytes read since its last call. Raises CorpusError for what cannot be
        used.
        """


@dataclass(frozen=True, slots=True)
class JsonLines:
    """The documents of one .jsonl or .jsonl.gz file, where the first wrong row is an error."""

    path: Path
    fields: Fields = field(default_factory=Fields)

    @property
    def size(self) -> int:
        """Bytes of the file; CorpusError if it is missing or has another kind of name."""
        read_corpus(self.path)  # reads nothing yet
        return self.path.stat().st_size

    def documents(self, progress: Callable[[int], None] | None = None) -> Iterator[Document]:
        return read_corpus(self.path, progress, self.fields)

    def __str__(self) -> str:
        return str(self.path)
