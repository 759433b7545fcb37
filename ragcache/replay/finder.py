"""SimulatedFinder: finds the documents that a workload names, in the time that searches take."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import count
from typing import Protocol

from tokenizers import Tokenizer, models

from ragcache.errors import BadQuery
from ragcache.prompt.prompt import Prompt
from ragcache.replay.search_profile import SearchProfile
from ragcache.replay.searches import Documents, Outsider, Searches, SearchesInTurn
from ragcache.replay.workload import TimedRequest, Workload
from ragcache.reuse.arrangement import Group
from ragcache.service.answer import UsedDocument
from ragcache.service.finder import Stage
from ragcache.service.health import State
from ragcache.tree.segment import Segment

TOKENS_PER_WORD = 4 / 3  # in a question that is text: about what English takes with most tokenizers


class Tokens(Protocol):
    """Token ids for a text that only has a name and a length: equal names and lengths, equal ids."""

    def __call__(self, name: str, length: int) -> Sequence[int]: ...


def lengths_alone(name: str, length: int) -> Sequence[int]:
    """Ids 0, 1, 2, …, for an engine that does not read them."""
    del name
    return range(length)


def made_up(vocab: int) -> Tokens:
    """Ids below `vocab`, drawn with the name as the seed, for an engine that computes."""

    def tokens(name: str, length: int) -> Sequence[int]:
        return random.Random(f"{name}\0{length}").choices(range(vocab), k=length)

    return tokens


class SimulatedFinder:
    """The finder of a replay. A question is the number of its request in the workload, as a text.

    Searches take the times of `searches` on the loop's clock. Those of a profile run one after the other, as a live
    service's do. Without `searches` they take no time and have one stage. A search may show documents that are not its
    request's: they are those of other requests, drawn with `seed`, so that popular ones show more often.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        system_tokens: int,
        searches: Searches | SearchProfile | None = None,
        seed: int = 0,
        tokens: Tokens = lengths_alone,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self._requests = workload.requests
        self._searches: Searches = SearchesInTurn(searches) if isinstance(searches, SearchProfile | None) else searches
        self._seed = seed
        self._tokens = tokens
        self._tokenizer = tokenizer or Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
        self._encode = None if tokenizer is None else tokenizer.encode
        self._segments: dict[tuple[str, int], Segment] = {}
        self._system = self._segment("system prompt\0", system_tokens)
        self._most = max(1, max(len(request.documents) for request in workload.requests))

    @property
    def corpus_size(self) -> int:
        return self._most

    @property
    def index_state(self) -> tuple[State, str]:
        return "ok", ""

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def check(self, question: str) -> None:
        """Accepts every request of the workload."""

    def longest(self) -> int:
        """Tokens of the longest prompt and answer together."""
        return max(
            len(self._system)
            + sum(size for _, size in request.documents)
            + self._question_tokens(number)
            + request.output
            for number, request in enumerate(self._requests)
        )

    async def find(self, question: str, top_k: int, room: int, *, staged: bool) -> AsyncGenerator[Stage]:
        del top_k  # a request has the documents it has
        number = int(question)
        request = self._requests[number]
        ending = self._question(number)
        stages = self._searches.stages(number, request.documents, self._outsider(number, request), staged=staged)
        async with contextlib.aclosing(stages):
            async for documents in stages:
                if documents is request.documents:
                    break
                if len(documents) == len(request.documents):
                    prompt = self._prompt(documents, ending)
                    if len(prompt) <= room:
                        yield Stage(_used(documents), prompt, False)
        prompt = self._prompt(request.documents, ending)
        if len(prompt) > room:
            raise BadQuery(
                f"request {number + 1} of the workload has a prompt of {len(prompt)} tokens, {room} fit before its "
                "answer",
                field="top_k",
                limit=room,
            )
        yield Stage(_used(request.documents), prompt, True)

    def close(self) -> None:
        """Does nothing: a replay's finder holds neither files nor threads."""

    def _outsider(self, number: int, request: TimedRequest) -> Outsider:
        others = self._others(number, request)
        drawn: list[tuple[str, int]] = []

        def outsider(which: int) -> tuple[str, int]:
            while len(drawn) < which:  # in one order, whichever is asked for first
                drawn.append(next(others))
            return drawn[which - 1]

        return outsider

    def _others(self, number: int, request: TimedRequest) -> Iterator[tuple[str, int]]:
        """Documents that the request does not have, each once, without end."""
        draw = random.Random(f"{self._seed}:{number}")
        taken = {name for name, _ in request.documents}

        def another(which: int) -> tuple[str, int]:
            for _ in range(100):
                other = self._requests[draw.randrange(len(self._requests))].documents
                if other:
                    document = other[draw.randrange(len(other))]
                    if document[0] not in taken:
                        return document
            return (f"outsider {which} of request {number}", request.documents[0][1])  # the workload has few others

        for which in count(1):
            document = another(which)
            taken.add(document[0])
            yield document

    def _prompt(self, documents: Documents, question: Sequence[int]) -> Prompt:
        segments = [self._segment(name, size) for name, size in documents]
        groups = [Group((segment,)) for segment in segments if len(segment)]
        return Prompt.of([self._system] if len(self._system) else [], groups, question)

    def _question_tokens(self, number: int) -> int:
        question = self._requests[number].question
        if isinstance(question, int):
            return question
        if self._encode is not None:
            return len(self._encode(question).ids)
        return max(1, round(len(question.split()) * TOKENS_PER_WORD))

    def _question(self, number: int) -> Sequence[int]:
        question = self._requests[number].question
        if isinstance(question, str) and self._encode is not None:
            return self._encode(question).ids
        return self._tokens(f"question {number}\0", self._question_tokens(number))

    def _segment(self, name: str, size: int) -> Segment:
        segment = self._segments.get((name, size))
        if segment is None:
            key = hashlib.blake2b(f"{name}\0{size}".encode(errors="surrogatepass"), digest_size=16).digest()
            segment = self._segments[name, size] = Segment(name, self._tokens(name, size), key)
        return segment


def _used(documents: Documents) -> tuple[UsedDocument, ...]:
    return tuple(UsedDocument(name, name, 0.0, False) for name, _ in documents)
