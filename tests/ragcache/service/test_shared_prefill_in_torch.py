"""What several requests begin with is computed once by the embedded engine, whoever leaves, and answered exactly."""

import asyncio
from typing import Any

import pytest

from ragcache.cache.cache import KnowledgeCache
from ragcache.engine.torch.engine import TorchEngine
from ragcache.policy import LRU
from ragcache.service.answer import Answer, Query
from ragcache.service.limits import Limits
from ragcache.service.service import RagService
from tests.props.asking import OTTERS, ask, begin, computed, run, until
from tests.props.scripted_finder import QUESTION_TOKENS, ScriptedFinder
from tests.props.torch_runs import Gate


def test_the_embedded_engine_computes_a_question_of_many_once_and_answers_each_as_alone(make_service):
    alone = run(ask(make_service(), OTTERS, max_tokens=6))
    prompt = alone.usage.prompt_tokens
    service = make_service(prefill_chunk=16, step_seconds=0.02)

    async def herd() -> list[Answer]:
        return await asyncio.gather(*(ask(service, OTTERS, max_tokens=6) for _ in range(7)))

    answers = run(herd())
    question = min(computed(answers))
    assert sorted(computed(answers)) == [question] * 6 + [prompt]
    assert service.engine.stats().prefill_tokens == prompt + 6 * question
    assert all(answer.token_ids == alone.token_ids for answer in answers)
    # some may have their documents when the first segments are there already
    assert 0 < service.stats.shared_tokens <= 6 * (prompt - question)


def test_the_embedded_engine_answers_exactly_whatever_was_shared_and_whoever_left(make_service):
    questions = [OTTERS, "What is rust?", OTTERS, "Do bees dance?", "What is rust?", OTTERS] * 3
    expected = {question: run(ask(make_service(), question, top_k=3)) for question in set(questions)}
    service = make_service(prefill_chunk=12, cache_tokens=900, max_batch=6, step_seconds=0.001)

    async def storm() -> list[Any]:
        tasks = []
        for number, question in enumerate(questions):
            tasks.append(asyncio.create_task(ask(service, question, top_k=3)))
            await asyncio.sleep(0.004)
            if number % 4 == 0:
                tasks[-1].cancel()
            service.cache.check_integrity()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: service.cache.balance().held == 0)
        return outcomes

    outcomes = run(storm())
    answers = [(q, outcome) for q, outcome in zip(questions, outcomes, strict=True) if isinstance(outcome, Answer)]
    assert len(answers) == len(questions) - 5
    assert all(answer.token_ids == expected[question].token_ids for question, answer in answers)
    assert service.stats.shared_tokens > 0


def test_a_leader_that_leaves_between_two_steps_of_the_embedded_engine_hands_over(make_service, tiny_model):
    gate = Gate(tiny_model)
    service = make_service(model=gate, prefill_chunk=24)
    expected = run(ask(make_service(), OTTERS, max_tokens=3))

    async def main() -> Answer:
        leader = await begin(service, Query(OTTERS, max_tokens=3))
        follower = asyncio.create_task(ask(service, OTTERS, max_tokens=3))
        await until(lambda: service.running == 2)
        for _ in range(2):
            await asyncio.to_thread(gate.step)
        await leader.aclose()
        gate.allowed.release(1000)
        return await follower

    answer = run(main())
    assert answer.token_ids == expected.token_ids
    assert 0 < answer.usage.computed_tokens <= expected.usage.computed_tokens


@pytest.mark.full(proof="test_the_embedded_engine_computes_a_question_of_many_once_and_answers_each_as_alone")
@pytest.mark.real
def test_the_default_model_computes_a_question_of_many_once(model):
    """Prompts of a thousand tokens: the last is answered about when the first is."""
    size = model.layout.bytes_per_token
    cache = KnowledgeCache(4000 * size, size, LRU(), share_in_flight=True)
    finder = ScriptedFinder({"q": [(0.0, "ABCDEFGHIJ")]})
    engine = TorchEngine(model)
    service = RagService(finder, cache, engine, Limits(top_k=2, max_tokens=8))

    async def herd(clients: int) -> list[Answer]:
        return await asyncio.gather(*(ask(service, "q", max_tokens=2) for _ in range(clients)))

    try:
        answers = asyncio.run(herd(6))
        question = asyncio.run(herd(1))[0]
    finally:
        service.close()
    first, *_, last = sorted(answer.timing.ttft_ms for answer in answers)
    assert sorted(computed(answers)) == [QUESTION_TOKENS] * 5 + [answers[0].usage.prompt_tokens]
    assert len({answer.token_ids for answer in answers}) == 1
    assert last <= 1.2 * first + 6 * question.timing.ttft_ms
