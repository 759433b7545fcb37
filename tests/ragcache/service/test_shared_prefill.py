"""What several requests begin with is computed once, whoever leads, leaves or fails, in virtual time."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcache.engine.protocol import Failed, Preempted, Prefilled, Progressed, Started
from ragcache.errors import DeadlineExceeded, EngineError
from ragcache.replay.virtual_time import run_virtual
from ragcache.service.answer import Answer
from ragcache.service.service import RagService
from tests.props.asking import adds_up, ask, computed
from tests.props.budget import examples
from tests.props.scripted_finder import DOCUMENT_TOKENS, QUESTION_TOKENS, SYSTEM_TOKENS
from tests.props.virtual_service import PROMPT, answered, outcomes_of, service_of, settled


@pytest.mark.parametrize("clients", [2, 6, 8])
def test_one_computes_what_many_ask_at_once_and_the_last_is_about_as_fast_as_the_first(clients):
    service = service_of({"q": "AB"})
    answers = answered(service, *["q"] * clients)
    assert computed(answers) == [PROMPT] + [QUESTION_TOKENS] * (clients - 1)
    assert service.engine.stats().prefill_tokens == PROMPT + (clients - 1) * QUESTION_TOKENS
    shared = PROMPT - QUESTION_TOKENS
    assert [answer.usage.cached_tokens.device for answer in answers] == [0] + [shared] * (clients - 1)
    assert service.stats.shared_tokens == (clients - 1) * shared
    first, *_, last = sorted(answer.timing.ttft_ms for answer in answers)
    assert last <= 1.2 * first + clients * QUESTION_TOKENS
    assert all(answer.timing.queue_ms >= PROMPT for answer in answers[1:]), "waiting for the leader is queueing"


def test_more_than_run_at_a_time_share_as_well():
    service = service_of({"q": "AB"}, max_batch=3)
    assert computed(answered(service, *["q"] * 20)) == [PROMPT] + [QUESTION_TOKENS] * 19


def test_without_sharing_everyone_computes_everything():
    service = service_of({"q": "AB"}, share=False)
    assert computed(answered(service, *["q"] * 4)) == [PROMPT] * 4
    assert service.stats.shared_tokens == 0


def test_a_common_first_document_is_computed_once_and_taken_before_the_leader_is_done():
    service = service_of({"ab": "AB", "ac": "AC", "a": "A"})
    ab, ac, _ = answers = answered(service, "ab", "ac", "a")
    rest = DOCUMENT_TOKENS + QUESTION_TOKENS
    assert computed(answers) == [PROMPT, rest, QUESTION_TOKENS]
    # their own work begins in the step behind the one that ends the document, not behind the leader's prompt
    assert ac.timing.queue_ms < ab.timing.ttft_ms
    assert ac.timing.ttft_ms <= ab.timing.ttft_ms + rest + 50


@pytest.mark.parametrize("window", [0, 4])
def test_the_same_documents_in_another_order_are_other_kv(window):
    service = service_of({"ab": "AB", "ba": "BA"}, reorder_window=window)
    assert computed(answered(service, "ab", "ba")) == [PROMPT, PROMPT - SYSTEM_TOKENS]


def test_a_follower_goes_before_a_later_prompt_whose_turn_came_after_its_own():
    """The later one joins the engine first, since it waits for none."""
    service = service_of({"ab": "AB", "long": "CDEFGHIJ"})
    leader, follower, later = answered(service, "ab", "ab", "long")
    assert follower.timing.ttft_ms <= leader.timing.ttft_ms + QUESTION_TOKENS + 2 * 50
    assert later.timing.ttft_ms > follower.timing.ttft_ms


def test_tenants_share_nothing():
    service = service_of({"q": "AB"})

    async def main() -> list[Answer]:
        answers = await asyncio.gather(
            *(ask(service, "q", max_tokens=2, tenant=name) for name in ("red", "blue", "red", "blue"))
        )
        settled(service)
        return answers

    assert computed(run_virtual(main())) == [PROMPT, PROMPT, QUESTION_TOKENS, QUESTION_TOKENS]


@pytest.mark.parametrize("after", [0.0, 0.005, 0.055, 0.12, 0.24])
def test_a_leader_that_hangs_up_hands_over(after):
    async def main() -> None:
        service = service_of({"q": "AB"})
        leader = asyncio.create_task(ask(service, "q", max_tokens=50))
        await asyncio.sleep(0)
        others = [asyncio.create_task(ask(service, "q", max_tokens=2)) for _ in range(3)]
        await asyncio.sleep(after)
        leader.cancel()
        answers = await asyncio.gather(*others)
        await asyncio.sleep(1)
        settled(service)
        first, *rest = sorted(computed(answers), reverse=True)
        assert rest == [QUESTION_TOKENS] * 2
        kept = SYSTEM_TOKENS + (DOCUMENT_TOKENS if after > 0.1 else 0)  # the step in progress goes on to its end
        assert first == (QUESTION_TOKENS if after > 0.23 else PROMPT - kept)
        # what the leader did stays done: nothing is computed twice but a piece that was cut off
        assert service.engine.stats().prefill_tokens <= PROMPT + 3 * QUESTION_TOKENS + DOCUMENT_TOKENS

    run_virtual(main())


@pytest.mark.parametrize("kind", [Started, Progressed, Prefilled])
@pytest.mark.parametrize("fate", [Failed("made up"), Preempted()])
def test_a_leader_that_fails_or_gives_way_hands_over_and_comes_back_behind_its_heir(kind, fate):
    fates = iter([(kind, fate)])
    service = service_of({"q": "AB"}, fates=lambda: next(fates, None))
    answers = answered(service, *["q"] * 4)
    assert len({answer.token_ids for answer in answers}) == 1
    assert sum(tokens > QUESTION_TOKENS for tokens in computed(answers)) <= 1
    assert service.engine.stats().prefill_tokens <= 2 * PROMPT + 3 * QUESTION_TOKENS
    assert service.stats.retries + service.stats.preemptions == 1


def test_each_of_a_herd_gets_its_own_error_where_every_prefill_fails():
    service = service_of({"q": "AB"}, fates=lambda: (Progressed, Failed("made up")))

    async def main() -> list[Any]:
        outcomes = await asyncio.gather(*(ask(service, "q", max_tokens=2) for _ in range(5)), return_exceptions=True)
        await asyncio.sleep(1)
        settled(service)
        return outcomes

    assert [type(outcome) for outcome in run_virtual(main())] == [EngineError] * 5


def test_a_follower_whose_time_is_over_ends_and_the_others_go_on():
    async def main() -> None:
        service = service_of({"q": "AB"})
        leader = asyncio.create_task(ask(service, "q", max_tokens=2))
        await asyncio.sleep(0)
        late = asyncio.create_task(ask(service, "q", max_tokens=2, timeout_ms=100))
        other = asyncio.create_task(ask(service, "q", max_tokens=2))
        with pytest.raises(DeadlineExceeded):
            await late
        service.cache.check_integrity()
        assert computed([await leader, await other]) == [PROMPT, QUESTION_TOKENS]
        settled(service)

    run_virtual(main())


def test_a_request_follows_a_guess_and_inherits_when_the_guess_is_wrong():
    async def main(last: str) -> tuple[list[Answer], RagService]:
        service = service_of({"guesses": [(0.0, "AB"), (0.12, last)], "follows": [(0.05, "AB")]}, speculate=True)
        answers = await asyncio.gather(*(ask(service, question, max_tokens=2) for question in ("guesses", "follows")))
        await asyncio.sleep(1)
        settled(service)
        return answers, service

    (guesses, follows), service = run_virtual(main("AB"))
    assert computed([guesses, follows]) == [PROMPT, QUESTION_TOKENS]
    assert guesses.speculation.used
    assert service.stats.wasted_tokens == 0
    (guesses, follows), service = run_virtual(main("CD"))
    # the guess had the first document when it was cancelled
    assert computed([guesses, follows]) == [PROMPT - SYSTEM_TOKENS, DOCUMENT_TOKENS + QUESTION_TOKENS]
    assert not guesses.speculation.used


def test_a_guess_does_not_compute_what_a_request_computes():
    async def main() -> None:
        service = service_of({"leads": "AB", "guesses": [(0.01, "AB"), (0.01, "AB")]}, speculate=True)
        answers = await asyncio.gather(*(ask(service, question, max_tokens=2) for question in ("leads", "guesses")))
        await asyncio.sleep(1)
        settled(service)
        assert computed(answers) == [PROMPT, QUESTION_TOKENS]
        assert answers[1].speculation.used

    run_virtual(main())


FATES = [None] * 5 + [(kind, fate) for kind in (Started, Progressed, Prefilled) for fate in (Failed("x"), Preempted())]
requests = st.tuples(
    st.sampled_from(["AB", "AC", "A", "BA", "ABC", "CD"]),  # documents
    st.sampled_from([0.0, 0.0, 0.01, 0.06, 0.3]),  # seconds after the one before
    st.sampled_from([None, None, None, 0.0, 0.07, 0.3]),  # seconds until it hangs up
    st.sampled_from([None, None, 150, 900]),  # milliseconds until its time is over
    st.sampled_from(["red", "blue", "red"]),  # tenant
    st.integers(1, 4),  # tokens of its answer
)


@settings(max_examples=examples(300), deadline=None)
@given(
    traffic=st.lists(requests, min_size=2, max_size=14),
    cache_tokens=st.sampled_from([340, 500, 5000]),
    policy=st.sampled_from(["lru", "pgdsf", "s3fifo"]),
    faults=st.booleans(),
    batch=st.integers(1, 5),
    window=st.sampled_from([0, 2]),
    guesses=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_traffic_ends_and_is_answered_as_without_sharing(
    traffic, cache_tokens, policy, faults, batch, window, guesses, seed
):
    async def main(share: bool) -> list[Any]:
        chance = random.Random(seed)
        service = service_of(
            {str(n): [(0.0, traffic[n - 1][0]), (0.03, each[0])] for n, each in enumerate(traffic)},
            share=share,
            cache_tokens=cache_tokens,
            policy=policy,
            fates=(lambda: chance.choice(FATES)) if faults else (lambda: None),
            max_batch=batch,
            reorder_window=window,
            speculate=guesses,
        )
        outcomes = await outcomes_of(
            service,
            (
                (pause, leaves, {"timeout_ms": milliseconds, "tenant": tenant, "max_tokens": tokens})
                for _, pause, leaves, milliseconds, tenant, tokens in traffic
            ),
        )
        for outcome in outcomes:
            assert isinstance(outcome, Answer | asyncio.CancelledError | DeadlineExceeded | EngineError), outcome
            assert faults or not isinstance(outcome, EngineError)
            assert not isinstance(outcome, Answer) or adds_up(outcome.usage)
        left = any(leaves is not None or milliseconds for _, _, leaves, milliseconds, _, _ in traffic)
        if share and cache_tokens == 5000 and not (faults or left or guesses):
            pieces = {(tenant, names[:end]) for names, *_, tenant, _ in traffic for end in range(len(names) + 1)}
            once = sum(DOCUMENT_TOKENS if names else SYSTEM_TOKENS for _, names in pieces)
            assert service.engine.stats().prefill_tokens == once + len(traffic) * QUESTION_TOKENS
        return outcomes

    shared, alone = run_virtual(main(share=True)), run_virtual(main(share=False))
    for one, other in zip(shared, alone, strict=True):
        if isinstance(one, Answer) and isinstance(other, Answer):
            assert one.token_ids == other.token_ids
            assert one.documents == other.documents
