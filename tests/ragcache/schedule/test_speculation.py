"""Speculation begins earlier and answers the same: rule, timing, waste, and which guess gives way, in virtual time."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcache.cache.cache import KnowledgeCache
from ragcache.cost import PolynomialCost
from ragcache.engine.protocol import EngineEvent, Failed, Job, Preempted
from ragcache.engine.simulated.engine import SimulatedEngine
from ragcache.engine.simulated.step_cost import MeasuredCost
from ragcache.engine.torch.engine import TorchEngine
from ragcache.errors import DeadlineExceeded, EngineError
from ragcache.policy import LRU
from ragcache.prompt.template import PromptTemplate
from ragcache.replay.virtual_time import run_virtual
from ragcache.schedule.speculation import Verdict, judge
from ragcache.service.answer import Answer, Query
from ragcache.service.limits import Limits
from ragcache.service.retriever_finder import RetrieverFinder
from ragcache.service.service import RagService
from retrieval.embedder import Embedder
from retrieval.errors import SearchError
from retrieval.index import build_index
from retrieval.retriever import Retriever
from retrieval.staged_search import even_shares
from tests.props.budget import examples
from tests.props.scripted_finder import DOCUMENT_TOKENS, QUESTION_TOKENS, SYSTEM_TOKENS, Script, ScriptedFinder

KEEP, CANCEL, START, NEITHER, BOTH = (
    Verdict(False, False), Verdict(True, False), Verdict(False, True), Verdict(False, False), Verdict(True, True)
)  # fmt: skip
MS = 0.001  # a token's prefill; a decode takes 10
FEW = SYSTEM_TOKENS + QUESTION_TOKENS


@pytest.mark.parametrize(
    ("running", "candidate", "pool", "verdict"),
    [
        (None, "AB", 0, START),
        (None, "AB", 3, START),
        (None, "AB", 4, NEITHER),
        ("AB", "AB", 0, KEEP),
        ("AB", "AB", 9, KEEP),
        ("AB", "BA", 0, BOTH),  # order decides the KV
        ("AB", "A", 0, BOTH),
        ("A", "AB", 0, BOTH),
        ("AB", "AC", 4, CANCEL),
    ],
)
def test_the_rule(running, candidate, pool, verdict):
    keys = [letter.encode() for letter in running] if running is not None else None
    assert judge(keys, [letter.encode() for letter in candidate], pool, 4) == verdict


def service_of(
    finder: ScriptedFinder, *, cache_tokens: int = 5000, keep: bool = True, chunk: int = 50, **limits: Any
) -> RagService:
    """1 ms a token of prefill, 10 ms a decode, steps of `chunk` tokens."""
    cost = MeasuredCost(PolynomialCost(1000, 0), 0.01)
    engine = SimulatedEngine(cost, bytes_per_token=8, context_length=4096, prefill_chunk=chunk, vocab=500)
    cache = KnowledgeCache(cache_tokens * 8, 8, LRU(), cost=cost.prefill, keep=keep)
    return RagService(finder, cache, engine, Limits(**{"top_k": 2, "max_tokens": 64, "speculate": True} | limits))


async def answer_of(service: RagService, question: str, **options: Any) -> Answer:
    async for event in service.ask(Query(question, **options)):
        if isinstance(event, Answer):
            return event
    raise AssertionError("no answer")


def settled(service: RagService) -> None:
    service.cache.check_integrity()
    assert service.cache.balance().held == 0
    assert (service.waiting, service.running) == (0, 0)
    assert service.engine.stats().running == 0
    assert not service._unsettled


def answer_alone(script: Script, *, max_tokens: int = 1, **options: Any) -> tuple[Answer, RagService]:
    """The answer to one question, alone."""

    async def main() -> tuple[Answer, RagService]:
        service = service_of(ScriptedFinder({"q": script}), **options)
        answer = await answer_of(service, "q", max_tokens=max_tokens)
        await asyncio.sleep(1)
        settled(service)
        return answer, service

    return run_virtual(main())


def test_a_list_that_stands_becomes_the_answer_and_its_prefill_overlaps_the_search():
    script = [(0.1, "AB"), (0.3, "AB")]
    answer, service = answer_alone(script)
    plain, _ = answer_alone(script, speculate=False)
    # prefilled from 100 to 330 ms, the search ended at 400: the first token was there by then
    assert answer.timing.ttft_ms == pytest.approx(400)
    assert answer.timing.search_overlap_ms == pytest.approx(300)
    assert (answer.timing.queue_ms, answer.timing.prefill_ms) == (0, 0)
    assert plain.timing.ttft_ms == pytest.approx(400 + 200 + FEW)
    assert plain.timing.search_overlap_ms == 0
    assert (answer.speculation.started, answer.speculation.used, answer.speculation.wasted_tokens) == (1, True, 0)
    assert (plain.speculation.started, plain.speculation.used, plain.speculation.wasted_tokens) == (0, False, 0)
    assert (answer.token_ids, answer.documents, answer.usage) == (plain.token_ids, plain.documents, plain.usage)
    assert (service.stats.speculations, service.stats.used_speculations, service.stats.wasted_tokens) == (1, 1, 0)


def test_what_is_left_of_the_prefill_is_all_that_is_waited_for():
    answer, _ = answer_alone([(0.1, "AB"), (0.1, "AB")])
    assert answer.timing.ttft_ms == pytest.approx(100 + 200 + FEW)
    assert answer.timing.retrieval_ms == pytest.approx(200)
    assert answer.timing.prefill_ms == pytest.approx(100 + FEW)


def test_a_list_that_changes_is_cancelled_at_the_next_step_and_what_is_complete_of_it_stays():
    # A is complete after 110 ms, so that the second list finds it; the step in which the change comes is finished
    answer, service = answer_alone([(0.1, "AB"), (0.12, "AC"), (0.5, "AC")])
    assert (answer.speculation.started, answer.speculation.used) == (2, True)
    assert answer.usage.cached_tokens.device == SYSTEM_TOKENS + DOCUMENT_TOKENS
    # three steps of 50 were over or under way by 220 ms, and with them 110 of 150 tokens were worth keeping
    assert answer.speculation.wasted_tokens == 40 == service.stats.wasted_tokens
    assert service.stats.used_speculations == 1


def test_the_last_list_decides():
    answer, service = answer_alone([(0.1, "AB"), (0.09, "BA")])
    plain, _ = answer_alone([(0.1, "AB"), (0.09, "BA")], speculate=False)
    assert [document.id for document in answer.documents] == ["B", "A"]
    assert (answer.speculation.started, answer.speculation.used) == (1, False)
    assert answer.token_ids == plain.token_ids
    assert answer.timing.search_overlap_ms == 0
    # steps end at 150 and 200 ms; the system prompt stays
    assert answer.speculation.wasted_tokens == 100 - SYSTEM_TOKENS == service.stats.wasted_tokens


def test_a_cache_that_keeps_nothing_wastes_everything():
    answer, _ = answer_alone([(0.1, "AB"), (0.09, "BA")], keep=False)
    assert answer.speculation.wasted_tokens == 100


def test_a_speculation_may_have_ended_before_the_search():
    answer, _ = answer_alone([(0.1, "AB"), (2, "AB")], max_tokens=5)
    assert answer.timing.ttft_ms == answer.timing.total_ms == pytest.approx(2100)
    assert answer.usage.completion_tokens == 5
    wrong, _ = answer_alone([(0.1, "AB"), (2, "CD")], max_tokens=5)
    # documents and system prompt stay in the cache: question and answer are lost
    assert wrong.speculation.wasted_tokens == QUESTION_TOKENS + 5


def test_nothing_is_guessed_while_enough_prompts_are_to_be_computed():
    async def main() -> tuple[Answer, Answer, Answer]:
        busy = [(0.0, "WX")]
        scripts = {"busy": busy, "late": [(0.01, "AB"), (0.1, "AB")], "later": [(0.3, "AB"), (0.5, "AB")]}
        service = service_of(ScriptedFinder(scripts), max_prefill_batch=1)
        answers = await asyncio.gather(*(answer_of(service, name, max_tokens=1) for name in scripts))
        settled(service)
        return tuple(answers)

    busy, late, later = run_virtual(main())
    assert busy.speculation.started == 0
    assert late.speculation.started == 0  # the other's prefill takes until 230 ms
    assert later.speculation.started == 0  # and this one's from 230 ms to 460


def test_one_that_could_not_start_may_with_the_next_stage():
    async def main() -> Answer:
        scripts = {"busy": [(0.0, "WX")], "late": [(0.01, "AB"), (0.3, "AB"), (0.3, "AB")]}
        service = service_of(ScriptedFinder(scripts), max_prefill_batch=1)
        _, late = await asyncio.gather(*(answer_of(service, name, max_tokens=1) for name in scripts))
        return late

    late = run_virtual(main())
    assert late.speculation.used
    assert late.timing.search_overlap_ms == pytest.approx(300)


@pytest.mark.parametrize("scarce", ["memory", "places"])
def test_a_request_whose_turn_has_come_takes_the_place_of_the_youngest_guess(scarce):
    limits = {"cache_tokens": 500} if scarce == "memory" else {"max_batch": 2}

    async def main() -> list[Answer]:
        scripts = {"old": [(0.0, "AB"), (2.0, "AB")], "young": [(0.01, "CD"), (2.0, "CD")], "sure": [(0.05, "EF")]}
        service = service_of(ScriptedFinder(scripts), **limits)
        answers = await asyncio.gather(*(answer_of(service, name, max_tokens=1) for name in scripts))
        await asyncio.sleep(0.2)
        settled(service)
        return answers

    old, young, sure = run_virtual(main())
    assert (old.speculation.used, young.speculation.used) == (True, False)
    assert young.speculation.started == 1
    assert sure.timing.ttft_ms == pytest.approx(230 + 230 - 50 + 50)  # behind the older guess, which began before


def test_a_guess_waits_for_no_other_and_no_other_waits_behind_it():
    async def main() -> None:
        scripts = {"big": [(0.0, "ABCD")], "next": [(0.0, "EFGH")], "guess": [(0.01, "IJ"), (0.1, "IJ")]}
        service = service_of(ScriptedFinder(scripts), cache_tokens=500)
        answers = await asyncio.gather(*(answer_of(service, name, max_tokens=1) for name in scripts))
        assert answers[2].speculation.started == 0
        settled(service)

    run_virtual(main())


@pytest.mark.parametrize("ends", ["hangs up", "expires", "fails"])
def test_a_request_that_goes_takes_its_guess_along(ends):
    async def main() -> None:
        error = SearchError("the index is gone")
        finder = ScriptedFinder({"q": [(0.1, "AB"), (0.05, "AB")]}, {"q": error} if ends == "fails" else None)
        service = service_of(finder)
        task = asyncio.create_task(answer_of(service, "q", timeout_ms=120 if ends == "expires" else None))
        await asyncio.sleep(0.13)
        if ends == "hangs up":
            assert service.running == 1
            task.cancel()
        with pytest.raises((asyncio.CancelledError, DeadlineExceeded, SearchError)):
            await task
        assert finder.searching == 0
        await asyncio.sleep(0.1)
        settled(service)
        assert (service.stats.speculations, service.stats.used_speculations) == (1, 0)
        assert service.stats.wasted_tokens > 0

    run_virtual(main())


def test_the_final_list_begins_with_what_the_guess_has_computed_of_it():
    answer, _ = answer_alone([(0.1, "AB"), (0.12, "AC")])
    plain, _ = answer_alone([(0.22, "AC")])
    assert answer.usage.cached_tokens.device == SYSTEM_TOKENS + DOCUMENT_TOKENS
    # the step that ran ended at 250 ms
    assert answer.timing.ttft_ms == pytest.approx(250 + DOCUMENT_TOKENS + QUESTION_TOKENS)
    assert answer.token_ids == plain.token_ids


@pytest.mark.parametrize("fault", [Failed("a step went wrong"), Preempted()])
def test_a_guess_that_the_engine_does_not_finish_is_begun_again(monkeypatch, fault):
    async def main() -> None:
        service = service_of(ScriptedFinder({"q": [(0.1, "AB"), (0.1, "AB")]}))
        submit = service.engine.submit

        def refuses(_: Job, deliver: Callable[[EngineEvent], None]) -> Callable[[], None]:
            monkeypatch.setattr(service.engine, "submit", submit)
            asyncio.get_running_loop().call_later(0.02, deliver, fault)
            return lambda: None

        monkeypatch.setattr(service.engine, "submit", refuses)
        answer = await answer_of(service, "q", max_tokens=1)
        assert answer.usage.completion_tokens == 1
        assert answer.timing.ttft_ms == pytest.approx(200 + 200 + FEW)
        assert not answer.speculation.used
        assert (service.stats.retries, service.stats.preemptions) == ((1, 0) if isinstance(fault, Failed) else (0, 1))
        settled(service)

    run_virtual(main())


stages = st.lists(st.tuples(st.sampled_from([0.0, 0.01, 0.05, 0.2]), st.sampled_from(["AB", "BA", "AC", "A", "DE"])))


@settings(max_examples=examples(150), deadline=None)
@given(
    scripts=st.lists(st.tuples(stages, st.sampled_from(["AB", "BA", "CD"]), st.booleans()), min_size=1, max_size=8),
    cache_tokens=st.sampled_from([300, 600, 5000]),
    seed=st.integers(0, 1000),
)
def test_any_traffic_of_guesses_answers_all_and_conserves_memory(scripts, cache_tokens, seed):
    rng = random.Random(seed)

    async def traffic(speculate: bool) -> Sequence[Any]:
        searches = {str(number): [*script, (0.02, last)] for number, (script, last, _) in enumerate(scripts)}
        service = service_of(
            ScriptedFinder(searches), cache_tokens=cache_tokens, speculate=speculate, max_batch=3, reorder_window=4
        )
        tasks = []
        for number, (_, _, leaves) in enumerate(scripts):
            tasks.append(asyncio.create_task(answer_of(service, str(number), max_tokens=rng.randint(1, 4))))
            await asyncio.sleep(rng.choice([0.0, 0.03]))
            if leaves:
                tasks[-1].cancel()
            service.cache.check_integrity()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(1)
        settled(service)
        assert not [error for error in outcomes if isinstance(error, EngineError)]
        assert service.stats.wasted_tokens >= sum(
            outcome.speculation.wasted_tokens for outcome in outcomes if isinstance(outcome, Answer)
        )
        return [outcome.token_ids for outcome in outcomes if isinstance(outcome, Answer)]

    with_guesses = run_virtual(traffic(True))
    rng.seed(seed)
    assert run_virtual(traffic(False)) == with_guesses


@pytest.mark.full(proof="test_a_real_engine_answers_the_same_whatever_is_guessed_before")
def test_real_searches_and_a_real_engine_answer_the_same_with_guesses(
    tmp_path, tiny_corpus, tiny_model, tiny_checkpoint
):
    """An IVF index whose few lists are probed one stage each, so that provisional lists do change."""
    corpus = tmp_path / "docs.jsonl"
    rows = [json.loads(line) for line in tiny_corpus.read_text(encoding="utf-8").splitlines()]
    more = [
        {**row, "id": f"{row['id']}-{part}", "text": f"{row['text']} Part {part}."}
        for row in rows
        for part in range(40)
    ]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in more), encoding="utf-8")
    build_index(corpus, tmp_path / "ivf", "ivf", Embedder.load(threads=1), progress=False)
    size = tiny_model.layout.bytes_per_token

    async def answered(speculate: bool) -> tuple[list[Answer], RagService]:
        finder = RetrieverFinder(
            Retriever.open(tmp_path / "ivf", threads=1),
            PromptTemplate.load(tiny_checkpoint, max_doc_tokens=256, max_question_tokens=64),
            even_shares(8),
        )
        cache = KnowledgeCache(1500 * size, size, LRU())
        limits = Limits(top_k=2, max_tokens=6, max_batch=3, max_waiting=99, speculate=speculate)
        engine = TorchEngine(tiny_model, prefill_chunk=16, threads=1)
        service = RagService(finder, cache, engine, limits)
        try:
            answers = await asyncio.gather(*(answer_of(service, f"How does {row['title']} work?") for row in rows))
            while service.running:
                await asyncio.sleep(0.01)
            settled(service)
            return answers, service
        finally:
            service.close()

    plain, _ = asyncio.run(answered(False))
    guessed, service = asyncio.run(answered(True))
    for before, after in zip(plain, guessed, strict=True):
        assert before.documents == after.documents
        assert before.token_ids == after.token_ids
    stats = service.stats
    assert stats.speculations == sum(answer.speculation.started for answer in guessed) > 0
    assert stats.used_speculations == sum(answer.speculation.used for answer in guessed)
    assert stats.wasted_tokens == sum(answer.speculation.wasted_tokens for answer in guessed)


def test_a_real_engine_answers_the_same_whatever_is_guessed_before(tiny_model):
    lists = ["AB", "BA", "AC", "ABC", "CA", "B"]
    rng = random.Random(5)
    scripts = {
        str(number): [
            (rng.choice([0, 0.004, 0.02]), rng.choice(lists[: 1 + number % 6])) for _ in range(rng.randint(2, 4))
        ]
        for number in range(24)
    }

    async def answered(speculate: bool) -> tuple[list[Answer], RagService]:
        size = tiny_model.layout.bytes_per_token
        engine = TorchEngine(tiny_model, prefill_chunk=32, threads=1)
        limits = Limits(top_k=2, max_tokens=4, max_batch=6, max_waiting=99, max_prefill_batch=9, speculate=speculate)
        service = RagService(ScriptedFinder(scripts), KnowledgeCache(900 * size, size, LRU()), engine, limits)
        try:
            asking = asyncio.Semaphore(3)

            async def ask(name: str) -> Answer:
                async with asking:
                    return await answer_of(service, name)

            answers = await asyncio.gather(*map(ask, scripts))
            while service.running:
                await asyncio.sleep(0.01)
            settled(service)
            return answers, service
        finally:
            service.close()

    plain, _ = asyncio.run(answered(False))
    guessed, service = asyncio.run(answered(True))
    assert [answer.token_ids for answer in plain] == [answer.token_ids for answer in guessed]
    assert service.stats.speculations > service.stats.used_speculations > 0
