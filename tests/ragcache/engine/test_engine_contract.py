"""What every engine promises, of the embedded one and of the simulated one: order, batches, cancellation, the end."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ragcache.engine.protocol import (
    Failed,
    Finished,
    Job,
    LastEvent,
    Prefilled,
    Progressed,
    Sampling,
    Started,
    Token,
)
from ragcache.reuse.plan import Computed, Exact, Moved
from tests.props.driven_engines import Driven, DrivenSimulation, DrivenTorch, job


@pytest.fixture(params=["torch", "simulated"])
def drive(request: pytest.FixtureRequest) -> Iterator[Callable[..., Driven]]:
    made: list[Driven] = []

    def make(**options: Any) -> Driven:
        if request.param == "torch":
            made.append(DrivenTorch(request.getfixturevalue("tiny_model"), **options))
        else:
            made.append(DrivenSimulation(**options))
        return made[-1]

    yield make
    for driven in made:
        driven.close()


def test_events_come_in_the_documented_order(drive):
    driven = drive(prefill_chunk=8)
    run = driven.submit(job(driven.engine, 5, 4, missing=[30]))
    driven.finish(run)
    assert run.kinds == [Started, Progressed, Prefilled, Token, Token, Token, Token, Finished]
    assert run.events[1:3] == [Progressed(computed_tokens=32), Prefilled(computed_tokens=35)]
    assert run.events[-1] == Finished("length", computed_tokens=35)
    assert all(event.margin >= 0 for event in run.events if isinstance(event, Token))


def test_progress_is_told_when_pieces_are_whole_and_once_for_a_step(drive):
    driven = drive(prefill_chunk=8)
    run = driven.submit(job(driven.engine, 5, 1, missing=[3, 4, 13, 12, 7]))
    driven.finish(run)
    # steps end at 8, 16, 24, 32, 40 and 44 tokens; pieces at 3, 7, 20, 32 and 39
    assert [event.computed_tokens for event in run.events if isinstance(event, Progressed)] == [8, 24, 32, 40]
    assert run.kinds == [Started, *[Progressed] * 4, Prefilled, Token, Finished]


def test_what_progress_told_of_stays_when_the_job_is_cancelled(drive):
    driven = drive(prefill_chunk=8)
    first = job(driven.engine, 5, 1, missing=[6, 30])
    run = driven.submit(first)
    driven.begin()
    driven.end()
    driven.begin()
    assert run.events[-1] == Progressed(8)
    run.cancel()
    driven.finish(run)
    assert run.events[-1].reason == "cancelled"
    assert first.targets[0].length == 6
    again = driven.submit(job(driven.engine, 5, 1, cached=first.targets[:1]))
    driven.finish(again)
    assert again.events[1] == Prefilled(5)


def test_prompts_are_computed_in_order_of_their_turns_and_then_of_submission(drive):
    driven = drive(prefill_chunk=10)
    runs = [driven.submit(replace(job(driven.engine, 25, 2), turn=5))]
    assert driven.begin() == [10]
    runs += [
        driven.submit(replace(job(driven.engine, tokens, 1), turn=turn)) for turn, tokens in [(7, 3), (2, 4), (5, 6)]
    ]
    driven.end()
    # four of turn 2, and six more of the first that was submitted of turn 5
    assert driven.begin() == [4, 6]
    driven.end()
    assert driven.begin() == [9, 1]
    driven.end()
    assert driven.begin() == [1, 5, 3]
    driven.finish(*runs)


def test_started_is_told_when_the_step_begins_and_the_rest_when_it_ends(drive):
    driven = drive()
    run = driven.submit(job(driven.engine, 5, 1))
    driven.begin()
    assert run.events == [Started()]
    driven.finish(run)
    assert run.kinds == [Started, Prefilled, Token, Finished]


def test_kv_is_filled_and_what_was_cached_stays_as_it_was(drive):
    driven = drive(prefill_chunk=16)
    first = job(driven.engine, 8, 3, missing=[20, 30])
    driven.finish(driven.submit(first))
    spans = list(first.targets)
    assert [kv.length for kv in spans] == [20, 30]
    assert (first.memory.length, first.memory.room) == (10, 0)  # the last token is never read back
    again = job(driven.engine, 8, 3, missing=[9], cached=spans)
    run = driven.submit(again)
    driven.finish(run)
    assert run.events[2] == Prefilled(computed_tokens=9 + 8)
    assert [kv.length for kv in spans] == [20, 30]
    assert again.targets[0].length == 9


def test_equal_jobs_get_equal_tokens_whatever_is_cached(drive):
    driven = drive(prefill_chunk=16)
    first = job(driven.engine, 8, 5, missing=[20])
    runs = [driven.submit(first)]
    driven.finish(*runs)
    for question in (8, 8):
        runs.append(driven.submit(job(driven.engine, question, 5, cached=first.targets)))
    driven.finish(*runs)
    tokens = [[event.id for event in run.events if isinstance(event, Token)] for run in runs]
    assert tokens[0] == tokens[1] == tokens[2]
    assert len(tokens[0]) == 5


def test_several_run_in_one_step(drive):
    driven = drive(prefill_chunk=20)
    runs = [driven.submit(job(driven.engine, 12, 3))]
    assert driven.begin() == [12]  # the first is in its step: the others arrive meanwhile
    runs += [driven.submit(job(driven.engine, 12, 3)) for _ in range(2)]
    driven.end()
    # one decodes; of the prompts, in order of arrival, as much as the chunk allows
    assert driven.begin() == [1, 12, 8]
    driven.end()
    assert driven.begin() == [1, 1, 4]
    driven.finish(*runs)
    assert driven.engine.stats().running == 0


def test_a_decode_waits_for_no_more_than_a_chunk(drive):
    driven = drive(prefill_chunk=16)
    first = driven.submit(job(driven.engine, 4, 6))
    driven.begin()
    second = driven.submit(job(driven.engine, 200, 1))
    for _ in range(5):
        driven.end()
        assert driven.begin() == [1, 16]
    driven.end()
    assert driven.begin() == [16]
    assert first.events[-1] == Finished("length", 4)
    driven.finish(second)


def test_cancelled_before_it_starts(drive):
    driven = drive()
    running = driven.submit(job(driven.engine, 5, 2))
    driven.begin()
    waiting = driven.submit(job(driven.engine, 5, 2))
    waiting.cancel()
    driven.end()
    assert driven.begin() == [1]
    assert waiting.events == [Finished("cancelled", computed_tokens=0)]
    driven.finish(running)
    assert running.events[-1] == Finished("length", 5)


@pytest.mark.parametrize("steps", [1, 3])
def test_cancelled_in_prefill_it_ends_at_the_next_step(drive, steps):
    driven = drive(prefill_chunk=4)
    run = driven.submit(job(driven.engine, 100, 2))
    for _ in range(steps - 1):
        driven.begin()
        driven.end()
    driven.begin()
    run.cancel()
    driven.finish(run)
    assert run.events == [Started(), Finished("cancelled", computed_tokens=4 * steps)]
    assert driven.engine.stats().steps == steps


def test_cancelled_in_decode_it_ends_at_the_next_step(drive):
    driven = drive()
    run = driven.submit(job(driven.engine, 5, 1000))
    for _ in range(4):
        driven.begin()
        driven.end()
    driven.begin()
    run.cancel()
    driven.finish(run)
    assert run.events[-1] == Finished("cancelled", computed_tokens=5)
    assert driven.engine.stats().steps == run.kinds.count(Token) == 5


def test_cancelling_twice_or_too_late_does_nothing(drive):
    driven = drive()
    run = driven.submit(job(driven.engine, 5, 2))
    driven.finish(run)
    run.cancel()
    run.cancel()
    other = driven.submit(job(driven.engine, 5, 2))
    driven.finish(other)
    assert run.events[-1] == other.events[-1] == Finished("length", 5)
    assert run.kinds.count(Finished) == 1


def test_stats_count_every_token_once(drive):
    driven = drive(prefill_chunk=8)
    stats = driven.engine.stats()
    assert (stats.steps, stats.restarts, stats.error, stats.alive) == (0, 0, None, True)
    runs = [driven.submit(job(driven.engine, 20, 5)) for _ in range(3)]
    driven.finish(*runs)
    stats = driven.engine.stats()
    assert stats.prefill_tokens == 60
    assert stats.decode_tokens == 3 * 4  # the first token of each comes with the prefill
    assert stats.running == 0
    assert stats.steps >= 60 / 8
    assert stats.step_seconds > 0


def test_close_fails_what_runs_and_what_waits(drive):
    driven = drive()
    running = driven.submit(job(driven.engine, 5, 1000))
    driven.begin()
    waiting = driven.submit(job(driven.engine, 5, 1000))
    driven.close()
    # the embedded engine ends its step, the simulated one is simply gone
    assert running.events[-1] in [Failed("the engine was shut down", computed) for computed in (0, 5)]
    assert waiting.events[-1] == Failed("the engine was shut down", computed_tokens=0)
    for run in (running, waiting):
        assert sum(isinstance(event, LastEvent) for event in run.events) == 1
    with pytest.raises(RuntimeError, match="the engine is closed"):
        driven.engine.submit(job(driven.engine, 5, 1), print)
    assert not driven.engine.stats().alive
    driven.engine.close()  # again: harmless


@pytest.mark.parametrize("split", [1, 3, 7])
def test_an_answer_that_goes_on_in_another_job_is_the_same(drive, split):
    driven = drive(prefill_chunk=16)
    sampling = Sampling(temperature=1.5, seed=3, top_p=0.9)
    first = replace(job(driven.engine, 8, 8, missing=[20]), sampling=sampling)
    whole = driven.submit(first)
    driven.finish(whole)
    tokens = [event.id for event in whole.events if isinstance(event, Token)]
    assert len(tokens) == 8
    question = [*first.question, *tokens[:split]]
    rest = Job(
        plan=(Exact(20, first.targets[0]),),
        targets=[],
        question=question,
        memory=driven.engine.allocate(len(question) + 8 - split - 1),
        max_tokens=8 - split,
        sampling=sampling,
        generated=split,
    )
    run = driven.submit(rest)
    driven.finish(run)
    assert [event.id for event in run.events if isinstance(event, Token)] == tokens[split:]
    assert run.events[-1] == Finished("length", computed_tokens=8 + split)


@pytest.mark.parametrize(("question", "max_tokens", "room"), [(0, 4, 8), (5, 0, 8), (5, 4, 7)])
def test_a_job_that_cannot_be_done_is_refused(drive, question, max_tokens, room):
    driven = drive()
    with pytest.raises(ValueError, match="a job needs"):
        driven.submit(Job((), [], range(question), driven.engine.allocate(room), max_tokens))
    good = driven.submit(job(driven.engine, 5, 4))
    driven.finish(good)
    assert good.events[-1] == Finished("length", 5)


def test_a_plan_with_kv_that_is_not_an_exact_prefix_is_refused(drive):
    driven = drive()
    first = job(driven.engine, 4, 1, missing=[20])
    driven.finish(driven.submit(first))
    (kv,) = first.targets
    new = Computed(range(3, 12))
    for plan in [(Moved(20, kv, shift=9),), (new, Moved(20, kv, shift=9)), (new, Exact(20, kv))]:
        targets = [driven.engine.allocate(9) for piece in plan if piece is new]
        with pytest.raises(ValueError, match="has to read exact KV first and compute the rest"):
            driven.submit(replace(job(driven.engine, 4, 1), plan=plan, targets=targets))
    good = driven.submit(job(driven.engine, 4, 1, missing=[9], cached=[kv]))
    driven.finish(good)
    assert good.events[-1] == Finished("length", 9 + 4)


@pytest.mark.parametrize("targets", [0, 2])
def test_a_plan_without_a_target_for_each_computed_piece_is_refused(drive, targets):
    driven = drive()
    good = job(driven.engine, 4, 1, missing=[9])
    with pytest.raises(ValueError, match=f"1 computed pieces has {targets} targets"):
        driven.submit(replace(good, targets=[driven.engine.allocate(9)] * targets))


def test_a_chunk_of_nothing_is_refused(drive):
    with pytest.raises(ValueError, match="prefill_chunk"):
        drive(prefill_chunk=0)
