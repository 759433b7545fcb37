"""The embedded engine writes what `transformers` would write, whatever else runs or fails, and lets go of its memory.

What it shares with every engine is in test_engine_contract.py.
"""

import threading
import time
import weakref
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch

from ragcache.engine.protocol import Failed, Finished, Prefilled, Started, Token
from ragcache.engine.torch import batch
from tests.props.torch_runs import PATIENCE, Changed, Gate, Run, job, prompt


@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_greedy_output_is_that_of_transformers(engines, generate, chunk):
    engine = engines(prefill_chunk=chunk)
    parts = [prompt(40, 1), prompt(3, 2), prompt(25, 3)]
    run = Run(engine, job(engine, prompt(10, 4), 12, missing=parts)).wait()
    assert run.tokens == generate([*chain(*parts), *prompt(10, 4)], 12)


@pytest.mark.parametrize("cached", [0, 1, 2, 3])
def test_output_does_not_depend_on_what_was_cached(engines, generate, cached):
    engine = engines(prefill_chunk=16)
    parts = [prompt(20, 5), prompt(30, 6), prompt(9, 7)]
    first = job(engine, prompt(8, 8), 10, missing=parts)
    expected = Run(engine, first).wait().tokens
    assert expected == generate([*chain(*parts), *prompt(8, 8)], 10)
    spans = first.targets[:cached]
    before = [span.data.clone() for span in spans]
    again = Run(engine, job(engine, prompt(8, 8), 10, missing=parts[cached:], cached=spans)).wait()
    assert again.tokens == expected
    prefilled = Prefilled(computed_tokens=sum(map(len, parts[cached:])) + 8)
    assert [event for event in again.events if isinstance(event, Prefilled)] == [prefilled]
    for span, data in zip(spans, before, strict=True):
        assert torch.equal(span.data, data)


def test_the_model_is_prepared_by_the_engines_thread_while_there_is_no_job(engines, tiny_model, generate):
    threads, parts = [], threading.Semaphore(0)
    prepared = threading.Semaphore(0)

    def preparation() -> Any:
        for _ in range(4):
            threads.append(threading.current_thread())
            prepared.release()
            assert parts.acquire(timeout=PATIENCE)
            yield

    engine = engines(Changed(tiny_model, preparation=preparation))
    assert prepared.acquire(timeout=PATIENCE)
    run = Run(engine, job(engine, prompt(5, 1), 6))
    parts.release()  # the first part ends, and the job goes before the second
    assert run.wait().tokens == generate(prompt(5, 1), 6)
    parts.release(3)
    for _ in range(3):
        assert prepared.acquire(timeout=PATIENCE)
    assert threads == [engine._thread] * 4
    assert Run(engine, job(engine, prompt(5, 1), 6)).wait().tokens == run.tokens


def test_a_preparation_that_fails_costs_the_engine_no_more_than_a_thread(engines, tiny_model, generate):
    def preparation() -> Any:
        yield
        raise MemoryError("none left")

    engine = engines(Changed(tiny_model, preparation=preparation))
    deadline = time.monotonic() + PATIENCE
    while engine.stats().restarts == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Run(engine, job(engine, prompt(5, 1), 6)).wait().tokens == generate(prompt(5, 1), 6)
    assert (engine.stats().restarts, engine.stats().alive) == (1, True)


def test_one_token_is_one_token(engines, generate):
    engine = engines()
    one = job(engine, prompt(5, 1), 1)
    run = Run(engine, one).wait()
    assert run.kinds == [Started, Prefilled, Token, Finished]
    assert run.tokens == generate(prompt(5, 1), 1)
    assert one.memory.length == one.memory.capacity == 5  # no room for what is never read


def test_an_end_token_stops_and_is_not_told(engines, tiny_model, generate):
    expected = generate(prompt(20, 9), 12)
    stop = expected[5]
    end = expected.index(stop)
    engine = engines(Changed(tiny_model, eos_tokens=frozenset([stop])))
    run = Run(engine, job(engine, prompt(20, 9), 12)).wait()
    assert run.events[-1] == Finished("stop", 20)
    assert run.tokens == expected[:end]


def test_an_end_token_at_once_gives_an_empty_answer(engines, tiny_model, generate):
    engine = engines(Changed(tiny_model, eos_tokens=frozenset(generate(prompt(20, 9), 1))))
    run = Run(engine, job(engine, prompt(20, 9), 12)).wait()
    assert run.kinds == [Started, Prefilled, Finished]
    assert run.events[-1] == Finished("stop", 20)


def test_the_margin_is_best_less_second(engines, llama):
    engine = engines()
    tokens = prompt(12, 3)
    run = Run(engine, job(engine, tokens, 1)).wait()
    with torch.inference_mode():
        best = llama()(torch.tensor([tokens])).logits[0, -1].topk(2).values
    assert run.events[2].margin == pytest.approx(float(best[0] - best[1]), abs=1e-4)


def test_together_they_say_what_they_say_alone(engines, generate):
    engine = engines(prefill_chunk=13)
    questions = [prompt(length, seed) for seed, length in enumerate([3, 40, 17, 1, 90, 8])]
    runs = []
    for question in questions:
        runs.append(Run(engine, job(engine, question, 9)))
        time.sleep(0.002)  # so that some decode while others prefill
    for question, run in zip(questions, runs, strict=True):
        assert run.wait().tokens == generate(question, 9)


@pytest.mark.parametrize("end", ["finished", "cancelled", "failed"])
def test_memory_goes_with_its_last_reference(engines, tiny_model, end, monkeypatch):
    """Without the garbage collector: what a job used must not hang on a cycle, nor on the idle engine."""
    monkeypatch.setattr(batch.log, "disabled", True)  # pytest keeps records, and with them tracebacks
    fail = threading.Event()

    def forward(steps: Any) -> Any:
        time.sleep(0.001)
        if fail.is_set():
            raise RuntimeError("out of something")
        return tiny_model.forward(steps)

    engine = engines(Changed(tiny_model, forward=forward))
    work = job(engine, prompt(10, 1), 5 if end == "finished" else 2000, missing=[prompt(20, 2)])
    memory = [weakref.ref(span.data) for span in (work.memory, work.targets[0])]
    run = Run(engine, work)
    del work
    run.job = None
    if end != "finished":
        while not run.tokens:
            time.sleep(0.001)
        run.cancel() if end == "cancelled" else fail.set()
    run.wait()
    deadline = time.monotonic() + 5
    while any(ref() is not None for ref in memory) and time.monotonic() < deadline:
        time.sleep(0.001)  # the engine's thread has yet to leave its step
    assert [ref() for ref in memory] == [None, None]


def test_a_failed_forward_fails_its_batch_and_the_engine_goes_on(engines, tiny_model, generate, caplog):
    bad = prompt(6, 66)

    def forward(steps: Any) -> Any:
        if any(list(step.tokens) == bad for step in steps):
            raise RuntimeError("out of something")
        return tiny_model.forward(steps)

    engine = engines(Changed(tiny_model, forward=forward))
    good = Run(engine, job(engine, prompt(20, 1), 6)).wait()
    failed = Run(engine, job(engine, bad, 6)).wait()
    assert failed.events == [Started(), Failed("RuntimeError: out of something")]
    later = Run(engine, job(engine, prompt(20, 1), 6)).wait()
    assert good.tokens == later.tokens == generate(prompt(20, 1), 6)
    assert engine.stats().running == 0
    assert "failed" in caplog.text


def test_only_the_batch_in_the_failed_step_fails(engines, tiny_model):
    gate = Gate(tiny_model)
    real = gate.forward
    failing = threading.Event()

    def forward(steps: Any) -> Any:
        if failing.is_set():
            failing.clear()
            raise RuntimeError("once")
        return real(steps)

    engine = engines(Changed(gate, forward=forward), prefill_chunk=10)
    first = Run(engine, job(engine, prompt(10, 1), 3))
    gate.begun.get(timeout=PATIENCE)
    second, third = (Run(engine, job(engine, prompt(10, seed), 3)) for seed in (2, 3))
    failing.set()
    gate.allowed.release(20)
    assert isinstance(first.wait().events[-1], Failed)
    assert isinstance(second.wait().events[-1], Failed)
    assert third.wait().events[-1] == Finished("length", 10)  # no room in that chunk: it was not in the step


@pytest.mark.parametrize("temperature", [1e-320, 1e-45, 1e-40, 1e-6])
def test_a_temperature_near_zero_is_greedy(engines, generate, temperature):
    engine = engines()
    run = Run(engine, job(engine, prompt(9, 1), 6, temperature=temperature)).wait()
    assert run.events[-1] == Finished("length", 9)
    assert run.tokens == generate(prompt(9, 1), 6)


def test_equal_seeds_give_equal_tokens_and_others_do_not(engines):
    engine = engines()

    def sampled(seed: int | None) -> list[int]:
        return Run(engine, job(engine, prompt(9, 1), 20, temperature=2.0, seed=seed)).wait().tokens

    assert sampled(1) == sampled(1)
    assert len({tuple(sampled(seed)) for seed in (1, 2, None, None)}) == 4


def test_neighbours_do_not_change_what_a_seed_gives(engines):
    engine = engines()
    alone = Run(engine, job(engine, prompt(9, 1), 15, temperature=1.5, seed=3)).wait().tokens
    runs = [Run(engine, job(engine, prompt(9, n), 15, temperature=1.5, seed=n + 2)) for n in (1, 2, 5)]
    assert runs[0].wait().tokens == alone
    for run in runs:
        run.wait()


def test_a_sampled_answer_does_not_depend_on_what_was_cached_nor_on_where_it_was_split(engines):
    engine = engines(prefill_chunk=16)
    settings = {"temperature": 1.2, "top_p": 0.9, "seed": 4}
    first = job(engine, prompt(9, 1), 15, missing=[prompt(30, 2)], **settings)
    whole = Run(engine, first).wait().tokens
    cached = first.targets
    assert Run(engine, job(engine, prompt(9, 1), 15, cached=cached, **settings)).wait().tokens == whole
    for split in (1, 6, 14):
        rest = job(engine, [*prompt(9, 1), *whole[:split]], 15 - split, cached=cached, **settings)
        assert Run(engine, replace(rest, generated=split)).wait().tokens == whole[split:]
