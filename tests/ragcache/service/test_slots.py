"""Slots of the batch are for requests that can compute: one that waits for KV of another takes its slot when that is
there, before any whose turn comes later."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcache.errors import Overloaded
from ragcache.replay.virtual_time import run_virtual
from ragcache.service.answer import Answer
from ragcache.service.service import RagService
from tests.props.asking import ask, computed
from tests.props.budget import examples
from tests.props.scripted_finder import DOCUMENT_TOKENS, QUESTION_TOKENS
from tests.props.virtual_service import PROMPT, TOKEN, outcomes_of, service_of, settled

DECODE = 10  # milliseconds a token
STEP = 50  # milliseconds of a whole chunk
REST = DOCUMENT_TOKENS + QUESTION_TOKENS


async def asked(service: RagService, *queries: tuple[str, int]) -> list[Answer]:
    """The answers to questions that are asked at once, with so much output each."""
    answers = await asyncio.gather(*(ask(service, question, max_tokens=tokens) for question, tokens in queries))
    settled(service)
    return answers


@pytest.mark.parametrize("window", [0, 32])
def test_what_is_cached_is_answered_beside_a_crowd_that_waits_for_one_prefill(window):
    """All other slots would be taken by those that wait. Engines compute in order of turns: so it begins with them."""

    async def main() -> None:
        service = service_of({"new": "AB", "cached": "CD"}, max_batch=8, reorder_window=window)
        await ask(service, "cached", max_tokens=1)
        *crowd, cached = await asked(service, *[("new", 60)] * 8, ("cached", 2))
        assert sorted(computed(crowd)) == [QUESTION_TOKENS] * 7 + [PROMPT - 10]  # the system prompt is cached
        leader = min(answer.timing.ttft_ms for answer in crowd)
        assert cached.timing.ttft_ms <= leader + 9 * QUESTION_TOKENS + 4 * DECODE

    run_virtual(main())


def test_those_that_wait_take_a_slot_before_any_that_comes_later():
    async def main() -> None:
        service = service_of({"new": "AB", "cached": "CD"}, max_batch=2)
        await ask(service, "cached", max_tokens=1)
        queries = [("new", 2), ("new", 2), ("cached", 60), *[("cached", 2)] * 3]
        leader, follower, long, *later = await asked(service, *queries)
        assert long.timing.ttft_ms < follower.timing.ttft_ms < min(each.timing.ttft_ms for each in later)
        # the leader's slot is the first to come free
        assert follower.timing.ttft_ms <= leader.timing.total_ms + QUESTION_TOKENS + DECODE
        assert computed([leader, follower]) == [PROMPT - 10, QUESTION_TOKENS]

    run_virtual(main())


def test_what_has_documents_to_compute_leaves_a_slot_for_each_that_waits():
    async def main() -> None:
        service = service_of({"new": "AB", "other": "CD"}, max_batch=3)
        leader, *followers, other = await asked(service, *[("new", 40)] * 3, ("other", 2))
        last = max(answer.timing.ttft_ms for answer in followers)
        assert last <= leader.timing.ttft_ms + 2 * QUESTION_TOKENS + DECODE
        assert other.timing.ttft_ms > leader.timing.total_ms

    run_virtual(main())


def test_those_that_follow_one_without_a_slot_wait_for_it_and_no_slot_stays_empty():
    """The second computes C behind A, the third waits for that. One slot, and the first keeps it long."""

    async def main() -> None:
        service = service_of({"ab": "AB", "ac": "AC"}, max_batch=1)
        first, second, third = await asked(service, ("ab", 40), ("ac", 2), ("ac", 2))
        assert computed([first, second, third]) == [PROMPT, REST, QUESTION_TOKENS]
        begin = first.timing.total_ms
        assert second.timing.ttft_ms == pytest.approx(begin + REST, abs=1)
        assert third.timing.ttft_ms == pytest.approx(second.timing.total_ms + QUESTION_TOKENS, abs=1)

    run_virtual(main())


@pytest.mark.parametrize("after", [0.0, 0.13, 0.4])
def test_one_that_leaves_before_it_has_a_slot_hands_over(after):
    async def main() -> None:
        service = service_of({"ab": "AB", "ac": "AC"}, max_batch=1)
        first = asyncio.create_task(ask(service, "ab", max_tokens=40))
        await asyncio.sleep(0)
        leaves = asyncio.create_task(ask(service, "ac", max_tokens=2))
        await asyncio.sleep(0)
        heirs = [asyncio.create_task(ask(service, "ac", max_tokens=2)) for _ in range(2)]
        await asyncio.sleep(after)
        leaves.cancel()
        answers = await asyncio.gather(first, *heirs)
        settled(service)
        assert computed(answers) == [PROMPT, REST, QUESTION_TOKENS]

    run_virtual(main())


def test_a_herd_with_every_slot_taken_is_answered_in_turn():
    """Two slots, both taken by long answers: the leader waits in the queue, and those that follow it behind."""

    async def main() -> None:
        service = service_of({"long": "EF", "new": "AB", "other": "AC"}, max_batch=2)
        answers = await asked(service, *[("long", 30)] * 2, *[("new", 3)] * 5, *[("other", 3)] * 5)
        assert computed(answers[2:]) == [PROMPT - 10] + [QUESTION_TOKENS] * 4 + [REST] + [QUESTION_TOKENS] * 4
        times = [answer.timing.ttft_ms for answer in answers[2:]]
        assert times == sorted(times)

    run_virtual(main())


def test_those_that_wait_without_a_slot_count_for_the_limit_of_waiting_requests():
    async def main() -> list[Any]:
        service = service_of({"q": "AB"}, max_batch=2, max_waiting=3)
        leader = asyncio.create_task(ask(service, "q", max_tokens=2))
        await asyncio.sleep(0.01)
        outcomes: list[Any] = []
        for _ in range(7):
            outcomes.append(asyncio.create_task(ask(service, "q", max_tokens=2)))
            await asyncio.sleep(0.001)
        done = await asyncio.gather(leader, *outcomes, return_exceptions=True)
        settled(service)
        return done

    outcomes = run_virtual(main())
    assert [isinstance(outcome, Overloaded) for outcome in outcomes] == [False] * 5 + [True] * 3
    assert "3 requests wait already" not in str(outcomes[-1])
    assert "4 requests wait already, the limit is 3" in str(outcomes[-1])


def test_a_guess_gives_its_slot_to_one_whose_turn_has_come_and_takes_none_that_is_set_aside():
    """Two slots: a guess that has one when a follower comes gives way, and another one does not start."""

    async def main() -> None:
        scripts = {"new": "AB", "guesses": [(0.01, "EF"), (9.0, "GH")]}
        service = service_of(scripts, max_batch=2, speculate=True)
        leader = asyncio.create_task(ask(service, "new", max_tokens=60))
        guesses = [asyncio.create_task(ask(service, "guesses", max_tokens=2))]
        await asyncio.sleep(0.02)
        follower = asyncio.create_task(ask(service, "new", max_tokens=2))
        await asyncio.sleep(0.06)
        guesses.append(asyncio.create_task(ask(service, "guesses", max_tokens=2)))
        answers = await asyncio.gather(leader, follower, *guesses)
        await asyncio.sleep(1)
        settled(service)
        assert [answer.speculation.started for answer in answers] == [0, 0, 1, 0]
        first, second, *_ = (answer.timing.ttft_ms for answer in answers)
        assert second < first + 2 * STEP + QUESTION_TOKENS

    run_virtual(main())


def test_a_guess_that_a_request_waits_for_goes_on_although_another_has_its_turn():
    """Two slots: the second is set aside for the follower, so the turn of the last would be the guess's end."""

    async def main() -> None:
        scripts = {"guesses": [(0.01, "AB"), (9.0, "CD")], "follows": [(0.02, "AB")], "other": [(0.07, "EF")]}
        service = service_of(scripts, max_batch=2, speculate=True)
        follows, other, guesses = await asyncio.gather(
            *(ask(service, question, max_tokens=2) for question in ("follows", "other", "guesses"))
        )
        await asyncio.sleep(1)
        settled(service)
        assert computed([follows, other]) == [QUESTION_TOKENS, PROMPT - 10]
        assert guesses.speculation.started == 1
        # the answer of the follower ends before the other begins, and the guess is for nothing but its documents
        assert follows.timing.ttft_ms <= PROMPT + QUESTION_TOKENS + 2 * DECODE

    run_virtual(main())


def test_a_guess_whose_prompt_is_there_gives_its_slot_to_the_request_that_waited_for_it():
    """Three slots: a long answer has one, the guess one, and one that is cached takes the follower's."""

    async def main() -> None:
        scripts = {
            "cached": "CD",
            "guesses": [(0.01, "AB"), (9.0, "GH")],
            "follows": [(0.02, "AB")],
            "later": [(0.03, "CD")],
        }
        service = service_of(scripts, max_batch=3, speculate=True, max_prefill_batch=9)
        await ask(service, "cached", max_tokens=1)
        queries = [("follows", 2), ("cached", 64), ("later", 64), ("guesses", 64)]
        follows, *_, guesses = await asyncio.gather(
            *(ask(service, question, max_tokens=tokens) for question, tokens in queries)
        )
        await asyncio.sleep(1)
        settled(service)
        assert guesses.speculation.started == 1
        assert computed([follows]) == [QUESTION_TOKENS]
        assert follows.timing.ttft_ms < PROMPT + 4 * STEP

    run_virtual(main())


@pytest.mark.parametrize("window", [0, 32])
def test_a_crowd_that_follows_does_not_push_out_what_is_cached(window):
    """Each that follows holds memory for its answer, though no more than 4 can run when the leader is done."""

    async def main() -> None:
        others = "EFGHIJKL"
        service = service_of({"new": "AB"} | dict(zip(others, others, strict=True)), max_batch=4, cache_tokens=1800,
                             reorder_window=window)  # fmt: skip
        for question in others:
            await ask(service, question, max_tokens=1)
        crowd = await asked(service, *[("new", 64)] * 20)
        assert sum(computed(crowd)) == PROMPT - 10 + 19 * QUESTION_TOKENS
        assert service.cache.counts.evictions == 0
        for question in others:
            assert computed([await ask(service, question, max_tokens=1)]) == [QUESTION_TOKENS]

    run_virtual(main())


def test_beside_the_most_that_follow_what_is_cached_still_has_the_free_slot():
    async def main() -> None:
        service = service_of({"new": "AB", "cached": "CD"}, max_batch=3)
        await ask(service, "cached", max_tokens=1)
        tasks = [asyncio.create_task(ask(service, "new", max_tokens=30)) for _ in range(4)]
        await asyncio.sleep(0.01)
        assert (service._admission.following, service._admission.free_slots) == (3, 2)
        cached = await ask(service, "cached", max_tokens=1)
        leader, *_ = await asyncio.gather(*tasks)
        assert cached.timing.ttft_ms < leader.timing.ttft_ms
        settled(service)

    run_virtual(main())


def test_a_guess_makes_way_once_what_others_waited_for_is_there():
    async def main() -> None:
        service = service_of(
            {"guesses": [(0.01, "AB"), (9.0, "CD")], "follows": [(0.02, "AB")], "other": [(0.07, "EF")]},
            max_batch=2,
            speculate=True,
        )
        queries = ("follows", 64), ("other", 64), ("guesses", 64)
        follows, other, guesses = await asked(service, *queries)
        assert guesses.speculation.started >= 1
        assert computed([follows]) == [QUESTION_TOKENS]
        assert other.timing.ttft_ms < 2 * (PROMPT + 2 * STEP)  # not after the 64 tokens of the guess, or the other's

    run_virtual(main())


@pytest.mark.parametrize("asked_after", [0.07, 0.12, 0.18])
def test_a_guess_goes_on_for_the_request_whose_turn_it_is(asked_after):
    """With a full batch that request holds nothing yet, but it would wait for what the guess computes."""

    async def main() -> None:
        service = service_of({"guesses": [(0.0, "AB"), (9.0, "CD")], "same": "AB"}, max_batch=1, speculate=True)
        guess = asyncio.create_task(ask(service, "guesses", max_tokens=64))
        await asyncio.sleep(asked_after)
        same = await ask(service, "same", max_tokens=2)
        assert service.engine.stats().prefill_tokens == PROMPT + QUESTION_TOKENS
        assert same.timing.ttft_ms <= 1e3 * (TOKEN * (PROMPT + QUESTION_TOKENS) - asked_after) + STEP
        guess.cancel()
        await asyncio.gather(guess, return_exceptions=True)
        await asyncio.sleep(1)
        settled(service)

    run_virtual(main())


def test_an_heir_takes_the_slot_of_the_leader_that_leaves():
    """And no guess is cancelled for it."""

    async def main() -> None:
        service = service_of(
            {"guesses": [(0.0, "EF"), (2.0, "EF")], "new": "ABGH", "cached": "CD"},
            max_batch=3,
            speculate=True,
            max_prefill_batch=9,
        )
        await ask(service, "cached", max_tokens=1)
        tasks = []
        for question, tokens, pause in (
            ("guesses", 64, 0.25),
            ("new", 2, 0.01),
            ("new", 2, 0.01),
            ("cached", 64, 0.01),
        ):
            tasks.append(asyncio.create_task(ask(service, question, max_tokens=tokens)))
            await asyncio.sleep(pause)
        guesses, leader, heir, cached = tasks
        (guess,) = service._speculations
        assert (service._admission.free_slots, service._admission.following, guess.running) == (0, 1, True)
        leader.cancel()
        await asyncio.sleep(2 * STEP / 1e3)
        assert (service._admission.free_slots, service._admission.following, guess.running) == (0, 0, True)
        answers = await asyncio.gather(guesses, heir, cached)
        assert answers[0].speculation.used
        settled(service)

    run_virtual(main())


requests = st.tuples(
    st.sampled_from(["AB", "AC", "AB", "CD", "ABC"]),  # documents
    st.sampled_from([0.0, 0.01, 0.3]),  # seconds after the one before
    st.sampled_from([None, None, 0.01, 0.2]),  # seconds until it hangs up
    st.sampled_from([1, 3, 40]),  # tokens of its answer
)


@settings(max_examples=examples(300), deadline=None)
@given(
    traffic=st.lists(requests, min_size=3, max_size=14),
    device_tokens=st.sampled_from([400, 500, 900]),
    batch=st.integers(1, 3),
    window=st.sampled_from([0, 8]),
    guesses=st.booleans(),
    failing=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_all_are_answered_however_slots_are_taken_and_loads_fail(
    traffic, device_tokens, batch, window, guesses, failing, seed
):
    """A lease that breaks is given anew, and may follow another then."""

    async def main() -> None:
        chance = random.Random(seed)
        service = service_of(
            {str(n): [(0.0, traffic[n - 1][0]), (0.03, each[0])] for n, each in enumerate(traffic)},
            cache_tokens=device_tokens,
            host_tokens=2000,
            copies_fail=lambda: chance.random() < failing,
            max_batch=batch,
            reorder_window=window,
            speculate=guesses,
        )
        outcomes = await outcomes_of(
            service, ((pause, leaves, {"max_tokens": tokens}) for _, pause, leaves, tokens in traffic)
        )
        for (_, _, leaves, _), outcome in zip(traffic, outcomes, strict=True):
            assert isinstance(outcome, Answer) or (leaves is not None and isinstance(outcome, asyncio.CancelledError))

    run_virtual(main())
