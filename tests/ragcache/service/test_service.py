"""A request is answered or ends in one error, and what it held comes back either way."""

import asyncio
import contextlib
import math
import threading
from typing import Any

import pytest

from ragcache.errors import BadQuery, EngineError, QuestionTooLong
from ragcache.service.answer import Answer, Delta, Query, Retrieved
from ragcache.service.service import RagService
from tests.props.asking import OTTERS, PATIENCE, adds_up, ask, begin, events_of, run, until


def test_documents_then_text_then_the_answer(make_service):
    events = run(events_of(make_service(), Query(OTTERS, max_tokens=12)))
    retrieved, *deltas, answer = events
    assert isinstance(retrieved, Retrieved)
    assert all(isinstance(delta, Delta) and delta.text for delta in deltas)
    assert isinstance(answer, Answer)
    assert "".join(delta.text for delta in deltas) == answer.answer
    assert (retrieved.id, retrieved.documents) == (answer.id, answer.documents)
    assert answer.documents[0].id == "otter"
    assert (answer.finish_reason, answer.usage.completion_tokens, len(answer.token_ids)) == ("length", 12, 12)
    assert len(answer.margins) == 12


def test_the_second_time_only_the_question_is_computed(make_service):
    service = make_service()

    async def scenario():
        return [await ask(service), await ask(service)]

    first, second = run(scenario())
    question = len(service.finder._template.question(OTTERS))
    assert first.usage.cached_tokens.device == 0
    assert first.usage.computed_tokens == first.usage.prompt_tokens
    assert second.usage.computed_tokens == question
    assert second.usage.cached_tokens.device == second.usage.prompt_tokens - question
    assert adds_up(first.usage)
    assert adds_up(second.usage)
    assert first.token_ids == second.token_ids
    assert first.answer == second.answer
    assert first.id != second.id


def test_another_question_over_the_same_documents_computes_only_itself(make_service):
    service = make_service()

    async def scenario():
        await ask(service, top_k=1)
        return await ask(service, "Do otters sleep hand in hand?", top_k=1)

    answer = run(scenario())
    assert [document.id for document in answer.documents] == ["otter"]
    assert answer.usage.computed_tokens == len(service.finder._template.question("Do otters sleep hand in hand?"))


def test_without_a_cache_all_is_computed_and_nothing_kept(make_service):
    service = make_service(keep=False)

    async def scenario():
        return [await ask(service), await ask(service)]

    first, second = run(scenario())
    assert first.usage == second.usage
    assert second.usage.cached_tokens.device == 0
    assert first.token_ids == second.token_ids
    assert service.cache.balance().free == service.cache.capacity


def test_answers_are_the_same_with_the_cache_on_off_cleared_and_crowded(make_service):
    questions = [OTTERS, "How does a glacier move?", "What makes bread rise?", "When are tides high?", OTTERS]

    async def one_by_one(service: RagService, clear: bool = False) -> list[tuple[int, ...]]:
        tokens = []
        for question in questions * 2:
            tokens.append((await ask(service, question, top_k=3)).token_ids)
            if clear:
                service.cache.drop_unheld()
                service.cache.check_integrity()
        return tokens

    expected = run(one_by_one(make_service(keep=False)))
    assert run(one_by_one(make_service())) == expected
    assert run(one_by_one(make_service(), clear=True)) == expected
    assert run(one_by_one(make_service(prefill_chunk=17, cache_tokens=400))) == expected  # evicts all the time


def test_each_question_pays_into_the_totals(make_service):
    service = make_service()

    async def scenario():
        return [await ask(service, q) for q in (OTTERS, OTTERS, "What is rust?")]

    answers = run(scenario())
    stats = service.stats
    assert stats.outcomes == {"answered": 3}
    assert stats.computed_tokens == sum(a.usage.computed_tokens for a in answers)
    assert stats.cached_tokens == {"device": sum(a.usage.cached_tokens.device for a in answers), "host": 0, "disk": 0}
    assert stats.completion_tokens == sum(a.usage.completion_tokens for a in answers)
    assert service.engine.stats().prefill_tokens == stats.computed_tokens
    counts = service.cache.counts
    system = len(service.finder._template.system)
    assert counts.hit_tokens == stats.cached_tokens["device"]
    assert counts.hits + counts.misses == 3 * 3
    assert counts.hit_tokens >= 2 * system


def test_times_are_in_order(make_service):
    timing = run(ask(make_service(step_seconds=0.005))).timing
    assert 0 < timing.retrieval_ms <= timing.ttft_ms <= timing.total_ms
    assert timing.prefill_ms >= 5
    assert timing.total_ms - timing.ttft_ms >= 15 * 5
    assert timing.retrieval_ms + timing.queue_ms + timing.prefill_ms <= timing.ttft_ms + 0.01


def test_a_document_cut_short_says_so(make_service):
    answer = run(ask(make_service(max_doc_tokens=16)))
    assert [document.truncated for document in answer.documents] == [True, True]
    assert not run(ask(make_service())).documents[0].truncated


@pytest.mark.parametrize(
    ("query", "error", "field", "limit"),
    [
        (Query(""), BadQuery, "question", None),
        (Query(" \n"), BadQuery, "question", None),
        (Query("why " * 100), QuestionTooLong, "question", 64),
        (Query(OTTERS, top_k=0), BadQuery, "top_k", 16),
        (Query(OTTERS, top_k=-1), BadQuery, "top_k", 16),
        (Query(OTTERS, top_k=17), BadQuery, "top_k", 16),
        (Query(OTTERS, max_tokens=0), BadQuery, "max_tokens", 16),
        (Query(OTTERS, max_tokens=17), BadQuery, "max_tokens", 16),
        (Query(OTTERS, temperature=-0.1), BadQuery, "temperature", None),
        (Query(OTTERS, temperature=5.1), BadQuery, "temperature", None),
        (Query(OTTERS, temperature=math.nan), BadQuery, "temperature", None),
        (Query(OTTERS, top_p=0.0), BadQuery, "top_p", None),
        (Query(OTTERS, top_p=1.01), BadQuery, "top_p", None),
        (Query(OTTERS, top_p=math.nan), BadQuery, "top_p", None),
        (Query(OTTERS, seed=-1), BadQuery, "seed", None),
        (Query(OTTERS, seed=2**63), BadQuery, "seed", None),
        (Query(OTTERS, stop=("",)), BadQuery, "stop", None),
        (Query(OTTERS, stop=("x",) * 9), BadQuery, "stop", None),
        (Query(OTTERS, stop=("x" * 201,)), BadQuery, "stop", None),
        (Query(OTTERS, temperature=math.inf), BadQuery, "temperature", None),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_work(make_service, query, error, field, limit):
    service = make_service()
    with pytest.raises(error) as caught:
        run(events_of(service, query))
    assert (caught.value.field, caught.value.limit) == (field, limit)
    assert service.stats.outcomes == {"rejected": 1}
    assert service.engine.stats().steps == 0
    assert (service.waiting, service.running) == (0, 0)


def test_bounds_are_allowed(make_service):
    answer = run(ask(make_service(), top_k=16, max_tokens=1, temperature=5.0))
    assert len(answer.documents) == 16
    assert answer.usage.completion_tokens == 1


def test_a_default_top_k_above_the_corpus_means_all_of_it(make_service):
    assert len(run(ask(make_service(top_k=50))).documents) == 16


def test_more_documents_than_the_context_holds_are_refused(make_service, tiny_model):
    class Short:
        context_length = 300

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_model, name)

    service = make_service(model=Short())
    with pytest.raises(BadQuery, match="16 documents do not fit") as caught:
        run(events_of(service, Query(OTTERS, top_k=16)))
    assert (caught.value.field, caught.value.limit) == ("top_k", 300 - 16)
    assert run(ask(service, top_k=1)).finish_reason == "length"


def test_a_prompt_of_the_whole_context_is_answered_to_the_end(make_service, tiny_model):
    """The last position of the model is used and none beyond it."""
    service = make_service()
    length = run(ask(service)).usage.prompt_tokens

    class Exact:
        context_length = length + 16

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_model, name)

    assert run(ask(make_service(model=Exact()))).usage.completion_tokens == 16


def test_a_prompt_larger_than_the_device_cache_is_refused(make_service):
    service = make_service(cache_tokens=300)
    with pytest.raises(BadQuery, match="device cache has") as caught:
        run(events_of(service, Query(OTTERS, top_k=16)))
    assert caught.value.field == "top_k"
    assert run(ask(service, top_k=1)).finish_reason == "length"


@pytest.mark.parametrize("read", [0, 1, 3])
def test_closing_a_stream_stops_the_work_and_gives_everything_back(make_service, read):
    service = make_service(step_seconds=0.005, max_tokens=2000)

    async def scenario():
        events = await begin(service, Query(OTTERS, max_tokens=2000))
        for _ in range(read):
            await anext(events)
        assert service.cache.balance().held > 0
        await events.aclose()
        await until(lambda: service.cache.balance().held == 0)
        steps = service.engine.stats().steps
        await asyncio.sleep(0.05)
        assert service.engine.stats().steps == steps
        assert service.engine.stats().running == 0

    run(scenario())
    assert service.stats.outcomes == {"cancelled": 1}
    assert (service.running, service.waiting) == (0, 0)


def test_what_was_computed_before_a_cancellation_is_kept(make_service):
    service = make_service(step_seconds=0.005, max_tokens=2000)

    async def scenario():
        events = await begin(service, Query(OTTERS, max_tokens=2000))
        assert isinstance(await anext(events), Delta)
        await events.aclose()
        return await ask(service, max_tokens=2)

    assert run(scenario()).usage.cached_tokens.device > 0


def test_cancelled_in_prefill_nothing_half_computed_is_kept(make_service):
    service = make_service(step_seconds=0.005, prefill_chunk=8)

    async def scenario():
        events = await begin(service, Query(OTTERS))
        await until(lambda: service.engine.stats().steps >= 2)
        await events.aclose()
        await until(lambda: service.cache.balance().held == 0)
        assert len(service.cache.tree) == 0
        return await ask(service)

    assert run(scenario()).token_ids == run(ask(make_service())).token_ids


@pytest.mark.parametrize("turns", range(12))
def test_a_task_cancelled_at_any_moment_gives_everything_back(make_service, turns):
    service = make_service(max_batch=1, step_seconds=0.002)

    async def scenario():
        first = asyncio.create_task(ask(service))
        second = asyncio.create_task(ask(service, "What is rust?"))
        for _ in range(turns):
            await asyncio.sleep(0.002)
        second.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await second
        await first
        await until(lambda: service.cache.balance().held == 0 and service.running == 0)
        service.cache.check_integrity()
        assert service.waiting == 0
        assert (await ask(service)).finish_reason == "length"

    run(scenario())


def test_a_question_that_waits_can_be_given_up(make_service):
    service = make_service(max_batch=1, step_seconds=0.005, max_tokens=400)

    async def scenario():
        running = await begin(service, Query(OTTERS, max_tokens=400))
        waiting = asyncio.create_task(ask(service, "What is rust?"))
        await until(lambda: service.waiting == 1 and not service._searches)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert service.waiting == 0
        await running.aclose()
        await until(lambda: service.cache.balance().held == 0)

    run(scenario())
    assert service.stats.outcomes == {"cancelled": 2}


def test_an_engine_failure_is_an_error_and_the_next_question_is_answered(make_service, tiny_model):
    class Failing:
        fail = False

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_model, name)

        def forward(self, steps: Any) -> Any:
            if self.fail:
                raise RuntimeError("out of something")
            return tiny_model.forward(steps)

    model = Failing()
    service = make_service(model=model)

    async def scenario():
        before = await ask(service)
        model.fail = True
        with pytest.raises(EngineError, match="out of something"):
            await ask(service)
        with pytest.raises(EngineError, match="out of something"):
            await ask(service, "What is rust?")
        await until(lambda: service.cache.balance().held == 0)
        model.fail = False
        assert (await ask(service)).token_ids == before.token_ids
        return await ask(service, "What is rust?")

    answer = run(scenario())
    assert answer.token_ids == run(ask(make_service(), "What is rust?")).token_ids
    assert service.stats.outcomes == {"answered": 3, "failed": 2}


def test_closing_the_service_fails_what_runs(make_service):
    service = make_service(step_seconds=0.005, max_tokens=2000)

    async def scenario():
        events = await begin(service, Query(OTTERS, max_tokens=2000))
        await anext(events)
        closing = asyncio.get_running_loop().run_in_executor(None, service.close)
        with pytest.raises(EngineError, match="shut down"):
            async for _ in events:
                pass
        await closing

    run(scenario())


def test_the_loop_is_not_blocked_while_documents_are_found(make_service, monkeypatch):
    service = make_service()
    retriever = service.finder._retriever
    search, entered, go_on = retriever.search_stages, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        entered.set()
        assert go_on.wait(PATIENCE)
        return search(*arguments)

    monkeypatch.setattr(retriever, "search_stages", slow)

    async def scenario():
        task = asyncio.create_task(ask(service))
        await until(entered.is_set)  # the loop runs while the search hangs
        assert service.waiting == 1
        go_on.set()
        return await task

    assert run(scenario()).finish_reason == "length"


def test_a_question_over_cached_documents_is_answered_before_those_that_came_earlier(make_service):
    service = make_service(max_batch=1, step_seconds=0.003, top_k=1, reorder_window=8, max_tokens=2000)

    async def answered(cached: str, *others: str) -> list[str]:
        """The order of the answers, if these are asked in the given order while another question is answered."""
        await ask(service, cached, max_tokens=1)
        busy = await begin(service, Query("How does a kite fly?", max_tokens=2000))
        order: list[str] = []

        async def question(text: str) -> None:
            await ask(service, text, max_tokens=1)
            order.append(text)

        tasks = []
        for number, text in enumerate([*others, cached], 1):
            tasks.append(asyncio.create_task(question(text)))
            await until(lambda number=number: service.waiting == number and not service._searches)  # type: ignore[misc]
        await busy.aclose()
        await asyncio.gather(*tasks)
        return order

    assert run(answered(OTTERS, "What is rust?", "What is a tide?"))[0] == OTTERS
