"""Device memory that runs out: the youngest gives way, waits, and goes on where it was."""

import asyncio
from typing import Any

import pytest

from ragcache.engine.protocol import Preempted, Token
from ragcache.errors import EngineError
from ragcache.service.answer import Query
from tests.props.asking import OTTERS, ask, begin, run, until


def test_memory_that_cannot_be_had_is_an_error_and_not_a_leak(make_service, monkeypatch):
    service = make_service()
    allocate = service.engine.allocate

    def refuse(_: int) -> Any:
        raise MemoryError("no memory")

    monkeypatch.setattr(service.engine, "allocate", refuse)
    with pytest.raises(EngineError, match="nothing else runs: serve with a smaller device cache"):
        run(ask(service))
    assert (service.running, service.cache.balance().held) == (0, 0)
    monkeypatch.setattr(service.engine, "allocate", allocate)
    assert run(ask(service)).finish_reason == "length"
    assert service.stats.outcomes == {"failed": 1, "answered": 1}


def test_memory_that_cannot_be_had_is_waited_for_while_others_run(make_service, monkeypatch):
    """The request that asks for memory last is the youngest, and so the one that gives way."""
    service = make_service(step_seconds=0.002)
    alone = run(ask(make_service(), "What is rust?"))
    allocate, refused = service.engine.allocate, []

    async def scenario():
        running = await begin(service, Query(OTTERS, max_tokens=16))

        def scarce(tokens: int) -> Any:
            if service.running > 1:
                refused.append(tokens)
                raise MemoryError("no memory")
            return allocate(tokens)

        monkeypatch.setattr(service.engine, "allocate", scarce)
        waiting = asyncio.create_task(ask(service, "What is rust?"))
        await until(lambda: bool(refused))
        async for event in running:
            first = event
        return first, await waiting

    first, second = run(scenario())
    assert first.finish_reason == "length"
    assert second.token_ids == alone.token_ids
    assert len(refused) == 1, "it did not wait until another had left"


def test_an_answer_that_is_preempted_goes_on_where_it_was(make_service, monkeypatch):
    service = make_service(max_tokens=24)
    options = {"max_tokens": 24, "temperature": 0.9, "top_p": 0.9, "seed": 7}
    undisturbed = run(ask(make_service(max_tokens=24), **options))
    submit, jobs = service.engine.submit, []

    def interrupted(job: Any, deliver: Any) -> Any:
        jobs.append(job)
        tokens = 0

        def until_the_ninth(event: Any) -> None:
            nonlocal tokens
            tokens += isinstance(event, Token)
            if tokens < 9:
                deliver(event)
            elif tokens == 9:
                tokens += 1
                cancel()
                deliver(Preempted(0))

        cancel = submit(job, until_the_ninth if len(jobs) < 3 else deliver)
        return cancel

    monkeypatch.setattr(service.engine, "submit", interrupted)
    answer = run(ask(service, **options))
    assert (answer.token_ids, answer.answer) == (undisturbed.token_ids, undisturbed.answer)
    assert [job.generated for job in jobs] == [0, 8, 16]
    assert answer.usage == undisturbed.usage, "what was computed again is no part of the prompt"
    assert service.stats.preemptions == 2
    assert service.stats.retries == 0
