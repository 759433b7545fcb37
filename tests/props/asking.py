"""Asking a service, for tests: a question's events, its answer, and waiting for what must come."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from ragcache.service.answer import Answer, Query, Retrieved, ServiceEvent, Usage
from ragcache.service.service import RagService

OTTERS = "Why do otters hold hands?"
PATIENCE = 60


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


async def events_of(service: RagService, query: Query) -> list[ServiceEvent]:
    return [event async for event in service.ask(query)]


async def ask(service: RagService, question: str = OTTERS, **options: Any) -> Answer:
    answer = (await events_of(service, Query(question, **options)))[-1]
    assert isinstance(answer, Answer)
    return answer


async def begin(service: RagService, query: Query) -> AsyncGenerator[ServiceEvent, None]:
    """A request that has been asked and has found its documents."""
    events = service.ask(query)
    assert isinstance(await anext(events), Retrieved)
    return events


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


def adds_up(usage: Usage) -> bool:
    tiers = dataclasses.astuple(usage.cached_tokens)
    return usage.computed_tokens + sum(tiers) == usage.prompt_tokens


def computed(answers: list[Answer]) -> list[int]:
    """Prompt tokens that each answer had computed; AssertionError where its usage does not add up."""
    assert all(adds_up(answer.usage) for answer in answers)
    return [answer.usage.computed_tokens for answer in answers]
