"""Searches: how the searches of a replay take their time, one after the other or beside each other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple, Protocol

from ragcache.replay.search_profile import SearchProfile

Documents = Sequence[tuple[str, int]]  # ids and tokens
Outsider = Callable[[int], tuple[str, int]]  # the document that stands for position -j, which is not in the result


class Searches(Protocol):
    """The searches of a replay, each of which takes its time on the running loop."""

    def stages(
        self, number: int, documents: Documents, outsider: Outsider, *, staged: bool
    ) -> AsyncGenerator[Documents]:
        """The documents that the search of request `number` shows, when it shows them; last comes `documents` itself.

        Unless `staged`, it shows the last alone, at the same time. Closing the generator ends the search.
        """


class SearchesInTurn:
    """One search after the other, as a live service's thread runs them. They take the times of a recorded profile,
    or no time without one."""

    def __init__(self, profile: SearchProfile | None) -> None:
        self._profile = profile
        self._turn = asyncio.Lock()

    async def stages(
        self, number: int, documents: Documents, outsider: Outsider, *, staged: bool
    ) -> AsyncGenerator[Documents]:
        if self._profile is not None:
            *before, last = self._profile.search(number, documents, outsider)
            async with self._turn:
                spent = 0.0
                for seconds, shown in before:
                    spent += seconds
                    if staged:
                        await asyncio.sleep(spent)
                        spent = 0.0
                        yield shown
                spent += last[0]
                if spent:
                    await asyncio.sleep(spent)
        yield documents


class SearchRequest(NamedTuple):
    """A search that request `number` asks for: how many documents it finds, and their tokens together."""

    number: int
    documents: int
    tokens: int


class ShownList(NamedTuple):
    """The list that a search shows `seconds` after it began.

    `positions` are those of its documents in the search's last list; documents that are not in it are -1, -2, …
    """

    seconds: float
    positions: Sequence[int]


class SearchMachine(Protocol):
    """A machine that searches for several requests at once, described by its times alone."""

    @property
    def at_once(self) -> int:
        """How many searches it can run at a time."""

    @property
    def joins(self) -> bool:
        """Whether a search may begin beside others that run; else several begin together, once none runs."""

    def search(self, requests: Sequence[SearchRequest], running: int) -> list[list[ShownList]]:
        """The lists that each of these searches shows, which begin now beside `running` others; last comes its result.

        Equal arguments give equal times.
        """


class SearchesTogether:
    """Searches of a machine that runs several at a time. Those that it cannot take yet wait in order of arrival."""

    def __init__(self, machine: SearchMachine) -> None:
        self._machine = machine
        self._waiting: deque[tuple[SearchRequest, asyncio.Future[list[ShownList]]]] = deque()
        self._running = 0
        self._begin_scheduled = False

    async def stages(
        self, number: int, documents: Documents, outsider: Outsider, *, staged: bool
    ) -> AsyncGenerator[Documents]:
        begun: asyncio.Future[list[ShownList]] = asyncio.get_running_loop().create_future()
        request = SearchRequest(number, len(documents), sum(size for _, size in documents))
        self._waiting.append((request, begun))
        self._begin_soon()
        try:
            *before, last = await begun
            spent = 0.0
            for seconds, positions in before if staged else ():
                await asyncio.sleep(seconds - spent)
                spent = seconds
                yield [documents[place] if place >= 0 else outsider(-place) for place in positions]
            await asyncio.sleep(last.seconds - spent)
        finally:
            if begun.done() and not begun.cancelled():  # the machine had begun it
                self._running -= 1
                self._begin_soon()
        yield documents

    def _begin_soon(self) -> None:
        """Begins searches once all requests that arrive at this moment have arrived."""
        if not self._begin_scheduled:
            self._begin_scheduled = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._begin_scheduled = False
        if self._running and not self._machine.joins:
            return
        taken: list[tuple[SearchRequest, asyncio.Future[list[ShownList]]]] = []
        while self._waiting and self._running + len(taken) < self._machine.at_once:
            request, begun = self._waiting.popleft()
            if not begun.done():  # it is, if the request was given up
                taken.append((request, begun))
        if not taken:
            return
        lists = self._machine.search([request for request, _ in taken], self._running)
        self._running += len(taken)
        for (_, begun), shown in zip(taken, lists, strict=True):
            begun.set_result(shown)
