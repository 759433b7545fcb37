"""Many clients at once: they wait their turn, are refused or hang up, and the service gets back what they held."""

import asyncio
import contextlib

from ragcache.errors import Overloaded
from ragcache.service.answer import Answer, Query
from ragcache.service.service import RagService
from tests.props.asking import OTTERS, PATIENCE, adds_up, ask, run, until


def test_more_than_may_wait_are_refused_and_the_others_answered(make_service):
    service = make_service(max_batch=1, max_waiting=2, step_seconds=0.005)

    async def scenario():
        return await asyncio.gather(*(ask(service) for _ in range(8)), return_exceptions=True)

    results = run(scenario())
    answered = [r for r in results if isinstance(r, Answer)]
    refused = [r for r in results if isinstance(r, Overloaded)]
    assert len(answered) == 3  # one runs, two wait
    assert len(refused) == 5
    assert "limit is 2" in str(refused[0])
    assert service.stats.outcomes == {"answered": 3, "overloaded": 5}
    assert run(ask(service)).finish_reason == "length"


def test_ten_clients_over_a_cache_of_two_requests_are_all_answered(make_service):
    questions = [OTTERS, "What is rust?", "How does a kite fly?", "Why do bees dance?", "How is cheese aged?"] * 2
    expected = run(asyncio.wait_for(_all(make_service(), questions), PATIENCE))
    service = make_service(cache_tokens=2 * max(a.usage.prompt_tokens + 16 for a in expected))
    answers = run(_all(service, questions))
    assert [a.token_ids for a in answers] == [a.token_ids for a in expected]
    assert all(adds_up(a.usage) for a in answers)
    assert service.cache.counts.refusals > 0  # they did have to wait


async def _all(service: RagService, questions: list[str]) -> list[Answer]:
    return await asyncio.gather(*(ask(service, question, top_k=2) for question in questions))


def test_a_storm_of_clients_who_hang_up_leaves_the_books_in_order(make_service):
    service = make_service(cache_tokens=700, max_batch=3, prefill_chunk=40)

    async def client(number: int) -> None:
        events = service.ask(Query(["What is rust?", OTTERS, "Do bees dance?"][number % 3], top_k=1 + number % 3))
        read = 0
        async with contextlib.aclosing(events):
            async for _ in events:
                read += 1
                if number % 2 and read > number % 7:
                    return

    async def scenario():
        tasks = [asyncio.create_task(client(number)) for number in range(40)]
        for number, task in enumerate(tasks):
            await asyncio.sleep(0.002)
            service.cache.check_integrity()
            if number % 5 == 4:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: service.cache.balance().held == 0)

    run(scenario())
    outcomes = service.stats.outcomes
    assert 32 <= sum(outcomes.values()) <= 40  # those cancelled before their first step never came to the service
    assert set(outcomes) == {"answered", "cancelled"}
