"""Searching: how the searches of a replay take their time: one after the other, or beside each other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple, Protocol

from ragcache.replay.search_profile import SearchProfile

Documents = Sequence[tuple[str, int]]  # ids and tokens
Outsider = Callable[[int], tuple[str, int]]  # the document that stands for -j


class Searching(Protocol):
    """Lets searches take their time on the running loop."""

    def stages(
        self, number: int, documents: Documents, outsider: Outsider, *, staged: bool
    ) -> AsyncGenerator[Documents]:
        """What the search of request `number` shows, when it shows it; it ends with `documents`, the very object.

        Not `staged`, there is the last alone, at the same time. Closing the generator ends the search.
        """


class InTurn:
    """One search after the other, as a live service's thread has them; recorded ones, or such as take no time."""

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


class Asked(NamedTuple):
    """A search of request `number` for so many documents, of so many tokens together."""

    number: int
    documents: int
    tokens: int


class Shown(NamedTuple):
    """What a search shows so many seconds after it began: positions in its last list, of others -1, -2, …"""

    seconds: float
    positions: Sequence[int]


class SearchMachine(Protocol):
    """What searches for several requests at once, by its times alone."""

    @property
    def at_once(self) -> int:
        """Searches that can be in hand."""

    @property
    def joins(self) -> bool:
        """Whether searches begin beside those that run, or together when none does."""

    def search(self, asked: Sequence[Asked], running: int) -> list[list[Shown]]:
        """For each of these, that begin now beside others that are `running`, what it shows; last comes its result.

        Equal arguments give equal times.
        """


class Together:
    """Searches of a machine that has several in hand: who comes when it can take no more waits, in order."""

    def __init__(self, machine: SearchMachine) -> None:
        self._machine = machine
        self._waiting: deque[tuple[Asked, asyncio.Future[list[Shown]]]] = deque()
        self._running = 0
        self._looking = False

    async def stages(
        self, number: int, documents: Documents, outsider: Outsider, *, staged: bool
    ) -> AsyncGenerator[Documents]:
        begun: asyncio.Future[list[Shown]] = asyncio.get_running_loop().create_future()
        asked = Asked(number, len(documents), sum(size for _, size in documents))
        self._waiting.append((asked, begun))
        self._look_soon()
        try:
            *before, last = await begun
            spent = 0.0
            for seconds, positions in before if staged else ():
                await asyncio.sleep(seconds - spent)
                spent = seconds
                yield [documents[at] if at >= 0 else outsider(-at) for at in positions]
            await asyncio.sleep(last.seconds - spent)
        finally:
            if begun.done() and not begun.cancelled():  # it had a place
                self._running -= 1
                self._look_soon()
        yield documents

    def _look_soon(self) -> None:
        """When all that comes at this time has come."""
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._looking = False
        if self._running and not self._machine.joins:
            return
        taken: list[tuple[Asked, asyncio.Future[list[Shown]]]] = []
        while self._waiting and self._running + len(taken) < self._machine.at_once:
            asked, begun = self._waiting.popleft()
            if not begun.done():  # by a request that was given up
                taken.append((asked, begun))
        if not taken:
            return
        shown = self._machine.search([asked for asked, _ in taken], self._running)
        self._running += len(taken)
        for (_, begun), stages in zip(taken, shown, strict=True):
            begun.set_result(stages)
