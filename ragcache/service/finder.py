"""Finder: from a question to its documents, and the prompt made of them, while the search goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from tokenizers import Tokenizer

from ragcache.prompt.prompt import Prompt
from ragcache.service.answer import UsedDocument


@dataclass(frozen=True, slots=True)
class Found:
    """The documents of a question as far as they are known, best first. `done`: the search is over."""

    documents: tuple[UsedDocument, ...]
    prompt: Prompt
    done: bool


class Finder(Protocol):
    """Finds documents for questions and writes prompts. Belongs to the event loop that asks; never blocks it."""

    @property
    def corpus_size(self) -> int:
        """How many documents there are; a question may have so many at most."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Turns generated token ids back into text."""

    def check(self, question: str) -> None:
        """Raises BadQuery or QuestionTooLong for a question that no prompt can be made of."""

    def find(self, question: str, top_k: int, room: int, *, staged: bool) -> AsyncGenerator[Found]:
        """An async generator: what is found after each stage of the search, the last `done` and no other.

        Not `staged`, there is the last stage alone, and it is the same. A prompt has at most `room` tokens: BadQuery
        if the final one does not fit; an earlier one that does not, or has fewer documents, is left out. Whatever else
        goes wrong is an error of `retrieval`. Closing the generator ends the search with its current stage.
        """

    def close(self) -> None:
        """Ends the searches and lets go of the documents."""
