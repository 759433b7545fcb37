"""Finder: turns a question into its documents and their prompt, stage by stage of a search."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tokenizers import Tokenizer

from ragcache.prompt.prompt import Prompt
from ragcache.service.answer import UsedDocument
from ragcache.service.health import State


@dataclass(frozen=True, slots=True)
class Stage:
    """The result of a search up to one of its stages: documents, best first, and their prompt.

    `done`: the search is over, and the result final.
    """

    documents: tuple[UsedDocument, ...]
    prompt: Prompt
    done: bool


class Finder(Protocol):
    """Finds documents for questions and writes prompts. Belongs to the event loop that calls it; never blocks it."""

    @property
    def corpus_size(self) -> int:
        """Number of documents, which is the largest `top_k`."""

    @property
    def index_state(self) -> tuple[State, str]:
        """Whether the documents' index is what was built, and what there is to say of it.

        "degraded" while that is being checked. "failed" once it is not: `find` raises IndexDamaged then.
        """

    @property
    def tokenizer(self) -> Tokenizer:
        """Turns generated token ids back into text."""

    def check(self, question: str) -> None:
        """Raises BadQuery or QuestionTooLong for a question that cannot become a prompt."""

    def find(self, question: str, top_k: int, room: int, *, staged: bool) -> AsyncGenerator[Stage]:
        """An async generator of the results after each stage of the search; the last is `done`, and no other.

        Without `staged` it yields the last stage alone, with the same result. A prompt has at most `room` tokens:
        raises BadQuery if the final one does not fit. An earlier one that does not, or that has fewer than `top_k`
        documents, is left out. Other failures raise errors of `retrieval`. Closing the generator ends the search
        with its current stage.
        """

    def close(self) -> None:
        """Ends the searches and closes the documents."""


@runtime_checkable
class ReopenableFinder(Finder, Protocol):
    """A finder whose documents may be replaced on disk while it is used."""

    def reopened(self, unwanted: Callable[[], bool]) -> Finder:
        """A finder over what is there now, checked to its last byte and ready to search; this one goes on.

        Takes as long as reading all of it, on any thread. Raises errors of `retrieval`, and OSError, for what cannot be
        opened or is damaged, and one of them soon after `unwanted` returns True.
        """
