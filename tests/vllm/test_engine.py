"""VllmEngine keeps the engine protocol: events in order, cancellation, sources, and last events when it is closed."""

import os
import queue
import time

import pytest

from ragcache.cli.assembly.vllm_arguments import engine_arguments
from ragcache.cli.config import ServeConfig
from ragcache.engine.cores import available_cores
from ragcache.engine.protocol import Failed, Finished, Job, Prefilled, Sampling, Started, Token
from ragcache.engine.vllm.front.engine import VllmEngine
from ragcache.errors import ConfigError
from ragcache.reuse.plan import Computed, Exact
from tests.vllm.site import BLOCK, SYSTEM, document

A, B = document(1, 200), document(2, 180)
QUESTION = list(range(700, 720))
PROMPT = len(SYSTEM) + len(A) + len(B) + len(QUESTION)


@pytest.fixture(scope="module")
def engine():
    config = ServeConfig(
        device_cache=64 << 20, host_cache=1 << 30, max_batch=4, vllm_options='{"enforce_eager": true}', engine="vllm"
    )
    made = VllmEngine(engine_arguments(config))
    yield made
    made.close()


def submit(engine, segments=(SYSTEM, A, B), max_tokens=6, **sampling):
    events = queue.SimpleQueue()
    targets = [engine.allocate(len(tokens)) for tokens in segments]
    plan = tuple(map(Computed, segments))
    job = Job(plan, targets, QUESTION, engine.allocate(64), max_tokens, Sampling(**sampling))
    return events, targets, engine.submit(job, events.put)


def all_of(events):
    """All events of a job, once it has ended."""
    received = []
    while not received or not isinstance(received[-1], Finished | Failed):
        received.append(events.get(timeout=60))
    return received


def ids_of(events):
    return [event.id for event in events if isinstance(event, Token)]


def test_events_come_in_order_and_name_the_sources(engine):
    first = all_of(submit(engine)[0])
    assert [type(event) for event in first] == [Started, Prefilled, *[Token] * 6, Finished]
    assert first[-1].reason == "length"
    assert all(event.margin >= 0 for event in first if isinstance(event, Token))
    events, targets, _ = submit(engine)
    assert ids_of(all_of(events)) == ids_of(first)
    # the same question, too: all but the last block
    assert all(kv.sources == (PROMPT // BLOCK * BLOCK, 0, 0) for kv in targets)


def test_the_greedy_answer_is_plain_vllms(engine, site):
    ids = ids_of(all_of(submit(engine)[0]))
    assert site(plain=True).ask([A, B]).ids == ids


def test_a_cancelled_job_ends_at_once_and_leaves_its_documents(engine):
    segments = (SYSTEM, document(31, 150))
    events, _, cancel = submit(engine, segments, max_tokens=60)
    while not isinstance(events.get(timeout=60), Token):
        pass
    cancel()
    begin = time.monotonic()
    assert all_of(events)[-1].reason == "cancelled"
    assert time.monotonic() - begin < 5
    cancel()  # does nothing to a job that has ended
    assert engine.stats().running == 0
    events, targets, _ = submit(engine, segments, max_tokens=1)
    all_of(events)
    assert targets[0].sources == ((len(SYSTEM) + 150 + len(QUESTION)) // BLOCK * BLOCK, 0, 0)


def test_equal_seeds_draw_equal_tokens(engine):
    drawn = [ids_of(all_of(submit(engine, temperature=1.5, seed=seed)[0])) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_jobs_run_side_by_side(engine):
    before = engine.stats()
    running = [submit(engine, segments=(SYSTEM, document(seed, 150))) for seed in range(40, 44)]
    received = [all_of(events) for events, _, _ in running]
    assert all(isinstance(events[-1], Finished) for events in received)
    stats = engine.stats()
    assert stats.running == 0
    assert stats.alive
    tokens = sum(len(ids_of(events)) for events in received)
    assert stats.decode_tokens - before.decode_tokens >= tokens - 4  # a prompt's step gives the first
    assert stats.prefill_tokens - before.prefill_tokens >= 4 * (150 + len(QUESTION))
    assert stats.step_seconds > before.step_seconds
    assert stats.steps - before.steps < tokens  # one after the other, each token would take a step


def test_a_prompt_longer_than_the_context_fails_alone(engine):
    events, _, _ = submit(engine, segments=(document(9, engine.context_length + 5),))
    assert isinstance(all_of(events)[-1], Failed)
    assert isinstance(all_of(submit(engine)[0])[-1], Finished)


def test_clearing_leaves_nothing_to_be_found(engine):
    for _ in range(8):  # right after a request's end vLLM still has blocks in use
        all_of(submit(engine)[0])
        engine.clear()
        events, targets, _ = submit(engine)
        all_of(events)
        assert targets[0].sources == (0, 0, 0)


def test_a_job_without_a_question_is_refused(engine):
    with pytest.raises(ValueError, match="needs a question"):
        engine.submit(Job((), [], [], engine.allocate(4), 4), print)
    with pytest.raises(ValueError, match="all of its prompt's tokens"):
        engine.submit(Job((Exact(8, engine.allocate(8)),), [], QUESTION, engine.allocate(4), 4), print)


def test_options_that_vllm_does_not_have_are_named():
    with pytest.raises(ConfigError, match="tensor_paralel_size"):
        engine_arguments(ServeConfig(engine="vllm", vllm_options='{"tensor_paralel_size": 2}'))
    with pytest.raises(ConfigError, match="model follow from the options"):
        engine_arguments(ServeConfig(engine="vllm", vllm_options='{"model": "x"}'))
    arguments = engine_arguments(ServeConfig(engine="vllm", vllm_options='{"tensor_parallel_size": 2}'))
    assert arguments.tensor_parallel_size == 2


@pytest.mark.parametrize(
    ("before", "settings", "bound", "threads"),
    [
        ({}, {}, "nobind", str(available_cores())),
        ({}, {"threads": 3}, "nobind", "3"),
        ({"OMP_NUM_THREADS": "5"}, {"threads": 3}, "nobind", "5"),
        ({"VLLM_CPU_OMP_THREADS_BIND": "0-1"}, {"threads": 3}, "0-1", None),
        ({}, {"vllm_options": '{"tensor_parallel_size": 2}'}, None, None),
    ],
)
def test_a_single_workers_threads_are_bound_to_no_core(monkeypatch, before, settings, bound, threads):
    for name in ("VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    engine_arguments(ServeConfig(engine="vllm", **settings))
    assert os.environ.get("VLLM_CPU_OMP_THREADS_BIND") == bound
    assert os.environ.get("OMP_NUM_THREADS") == threads


def test_closing_ends_what_runs(engine):
    events, _, _ = submit(engine, max_tokens=60)
    while not isinstance(events.get(timeout=60), Token):
        pass
    engine.close()
    assert isinstance(all_of(events)[-1], Failed)
    assert not engine.stats().alive
    with pytest.raises(RuntimeError, match="closed"):
        submit(engine)
