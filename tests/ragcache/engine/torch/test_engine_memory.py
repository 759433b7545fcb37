"""Where memory runs out the youngest gives way, nothing of the failed step counts, and every answer stays the same."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from ragcache.engine.protocol import Failed, Finished, Job, Preempted, Started, Token
from ragcache.engine.torch.preemption import is_out_of_memory
from tests.props.torch_runs import Changed, Gate, Run, job, prompt


def too_large_for_torch() -> None:
    torch.empty(1 << 50)


def too_large_for_cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 TiB")


def too_large_for_python() -> None:
    raise MemoryError


def cramped(model: Any, most: int, allocate: Any = too_large_for_python) -> Changed:
    """A model that has memory for steps of at most `most` sequences, and finds that out half-way through its layers."""

    def forward(steps: Any) -> Any:
        if len(steps) <= most:
            return model.forward(steps)
        layer = model.module.model.layers[-1]
        hook = layer.register_forward_pre_hook(lambda *_: allocate())
        try:
            return model.forward(steps)
        finally:
            hook.remove()

    return Changed(model, forward=forward)


def again(engine: Any, run: Run) -> Job:
    """The rest of a preempted answer."""
    assert run.job is not None
    question, done = [*run.job.question, *run.tokens], len(run.tokens)
    left = run.job.max_tokens - done
    rest = job(engine, question, left, missing=[piece.tokens for piece in run.job.plan])
    return replace(rest, sampling=run.job.sampling, generated=done)


@pytest.mark.parametrize("allocate", [too_large_for_python, too_large_for_cuda, too_large_for_torch])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_youngest_gives_way_and_all_answers_are_those_of_an_undisturbed_run(engines, tiny_model, most, allocate):
    shapes = [(20, 12), (35, 4), (9, 12), (30, 9)]
    settings = [{}, {"temperature": 1.3, "top_p": 0.9, "seed": 5}, {"temperature": 0.8, "seed": 1}, {}]

    def jobs(engine: Any) -> list[Job]:
        return [
            job(engine, prompt(length, n), count, missing=[prompt(25, 50 + n)], **settings[n])
            for n, (length, count) in enumerate(shapes)
        ]

    roomy, engine = engines(prefill_chunk=16), engines(cramped(tiny_model, most, allocate), prefill_chunk=16)
    expected = [Run(roomy, work).wait().tokens for work in jobs(roomy)]
    runs = [Run(engine, work) for work in jobs(engine)]
    preempted = 0
    for n, run in enumerate(runs):
        tokens = run.wait().tokens
        while isinstance(run.events[-1], Preempted):
            preempted += 1
            run = Run(engine, again(engine, run)).wait()
            tokens += run.tokens
        assert isinstance(run.events[-1], Finished)
        assert tokens == expected[n]
    assert isinstance(runs[0].events[-1], Finished), "the oldest is never preempted"
    assert preempted == engine.stats().preemptions > 0
    assert engine.stats().running == 0


def test_the_preempted_one_is_the_youngest_and_says_what_it_had_computed(engines, tiny_model):
    gate = Gate(cramped(tiny_model, 2))
    engine = engines(gate, prefill_chunk=8)
    runs = [Run(engine, job(engine, prompt(4, 1), 30))]
    assert gate.step() == [4]
    runs.append(Run(engine, job(engine, prompt(20, 2), 5)))
    for _ in range(30):  # until both decode
        if gate.step() == [1, 1]:
            break
    runs.append(Run(engine, job(engine, prompt(20, 3), 5)))
    while len(sizes := gate.step()) < 3:
        assert sizes == [1, 1]
    assert gate.step() == [1, 1], "the same step without the youngest"
    for run in runs:
        gate.allowed.release(30)
        run.wait()
    assert runs[2].events == [Started(), Preempted(computed_tokens=0)]
    assert [run.events[-1] for run in runs[:2]] == [Finished("length", 4), Finished("length", 20)]


def test_in_a_step_of_its_own_a_long_prefill_preempts_who_waits_behind_it(engines, tiny_model):
    """Its KV may be what the device lacks; until it is gone the oldest is not given up."""
    failures = iter([True, False])

    def forward(steps: Any) -> Any:
        if next(failures, False):
            raise MemoryError
        return tiny_model.forward(steps)

    gate = Gate(Changed(tiny_model, forward=forward))
    engine = engines(gate, prefill_chunk=8)
    first = Run(engine, job(engine, prompt(40, 1), 2))
    gate.begun.get(timeout=30)
    second = Run(engine, job(engine, prompt(5, 2), 2))
    failures = iter([False, True])
    gate.allowed.release(30)
    assert second.wait().events == [Preempted(computed_tokens=0)]
    assert first.wait().events[-1] == Finished("length", 40)


def test_one_alone_fails_with_what_to_do_and_the_engine_goes_on(engines, tiny_model, generate):
    full = threading.Event()
    full.set()

    def forward(steps: Any) -> Any:
        if full.is_set():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tiny_model.forward(steps)

    engine = engines(Changed(tiny_model, forward=forward), prefill_chunk=16)
    run = Run(engine, job(engine, prompt(40, 1), 4)).wait()
    assert run.kinds == [Started, Failed]
    message = run.events[-1].message
    assert message.startswith("out of memory in a step of 16 tokens, with no other job to make room")
    assert "use a smaller cache, model or prefill chunk" in message
    full.clear()
    later = Run(engine, job(engine, prompt(40, 1), 4)).wait()
    assert later.tokens == generate(prompt(40, 1), 4)
    assert engine.stats().preemptions == engine.stats().restarts == 0


def test_a_step_for_which_there_was_no_memory_is_not_counted(engines, tiny_model):
    engine = engines(cramped(tiny_model, 1), prefill_chunk=16)
    runs = [Run(engine, job(engine, prompt(30, n), 6)) for n in range(2)]
    for run in runs:
        run.wait()
    counted = engine.stats()
    done = sum(event.computed_tokens for run in runs for event in run.events[-1:])
    assert counted.prefill_tokens == done
    assert counted.decode_tokens == sum(max(0, run.kinds.count(Token) - 1) for run in runs)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected
