"""Whatever the stepping thread dies of, each job gets one last event and another thread serves on; but not for ever."""

import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from ragcache.engine.protocol import EngineEvent, Failed, Finished, LastEvent, Started, Token
from ragcache.engine.torch import engine as torch_engine
from ragcache.engine.torch.kv import KVLayout
from ragcache.errors import EngineError
from tests.props.torch_runs import PATIENCE, Changed, Gate, Run, job, prompt


class Fatal(BaseException):
    """As KeyboardInterrupt and SystemExit are: nothing that a handler of Exception sees."""


def mortal(model: Any) -> tuple[Changed, list[BaseException]]:
    """A model whose next forward raises what is put into the list."""
    pending: list[BaseException] = []

    def forward(steps: Any) -> Any:
        if pending:
            raise pending.pop()
        return model.forward(steps)

    return Changed(model, forward=forward), pending


def last_events(run: Run) -> int:
    return sum(isinstance(event, LastEvent) for event in run.events)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), Fatal("lightning")])
def test_running_and_queued_jobs_fail_and_the_next_one_is_answered(engines, tiny_model, generate, error):
    model, pending = mortal(tiny_model)
    gate = Gate(model)
    engine = engines(gate, prefill_chunk=64)
    running = [Run(engine, job(engine, prompt(10, 1), 500))]
    gate.step()
    running.append(Run(engine, job(engine, prompt(10, 2), 500)))
    while gate.step() != [1, 1]:
        pass
    gate.begun.get(timeout=PATIENCE)
    queued = Run(engine, job(engine, prompt(10, 3), 500))  # in the inbox: the thread is in its step
    first_thread = engine._thread
    pending.append(error)
    gate.allowed.release(10_000)
    died = f"the engine's thread died: {type(error).__name__}: {error}"
    for run in [*running, queued]:
        run.wait()
    assert [run.events[-1] for run in running] == [Failed(died, 10)] * 2
    assert queued.events == [Failed(died, 0)]
    later = Run(engine, job(engine, prompt(20, 4), 6)).wait()
    assert later.tokens == generate(prompt(20, 4), 6)
    assert engine._thread is not first_thread
    stats = engine.stats()
    assert (stats.restarts, stats.error, stats.alive, stats.running) == (1, died, True, 0)
    assert [last_events(run) for run in [*running, queued]] == [1, 1, 1]


def test_an_engine_whose_device_is_lost_takes_no_more_jobs(engines, tiny_model, monkeypatch):
    """As a GPU is after an illegal access: whatever is tried in this process fails, so no other thread takes over."""
    lost = threading.Event()

    def forward(steps: Any) -> Any:
        if lost.is_set():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return tiny_model.forward(steps)

    gate = Gate(Changed(tiny_model, forward=forward, lost=lost.is_set))
    engine = engines(gate, prefill_chunk=64)
    runs = [Run(engine, job(engine, prompt(10, n), 500)) for n in range(2)]
    gate.step()
    gate.begun.get(timeout=PATIENCE)
    work = job(engine, prompt(10, 3), 5)
    lost.set()
    gate.allowed.release(10)
    died = "the engine's thread died: RuntimeError: CUDA error: an illegal memory access was encountered"
    assert {run.wait().events[-1].message for run in runs} == {died}
    stats = engine.stats()
    assert (stats.restarts, stats.error, stats.alive, stats.running) == (0, died, False, 0)
    with pytest.raises(EngineError, match=r"takes no more jobs, restart the server: .* illegal memory access"):
        Run(engine, work)
    monkeypatch.setattr(KVLayout, "allocate", lambda *_: forward([]))
    with pytest.raises(EngineError, match="the device is lost, restart the server: CUDA error: an illegal"):
        engine.allocate(5)


def test_an_error_outside_the_forward_is_a_death_like_another(engines, monkeypatch, generate):
    engine = engines()
    real, errors = engine._receive, [OSError("the inbox is broken")]

    def receive() -> bool:
        goes_on = real()
        if errors:
            raise errors.pop()
        return goes_on

    monkeypatch.setattr(engine, "_receive", receive)
    run = Run(engine, job(engine, prompt(10, 1), 500)).wait()
    assert run.events[-1].message == "the engine's thread died: OSError: the inbox is broken"
    later = Run(engine, job(engine, prompt(20, 4), 6)).wait()
    assert later.tokens == generate(prompt(20, 4), 6)


def test_a_listener_that_exits_kills_the_thread_and_all_are_told(engines, generate):
    engine = engines()
    events: queue.Queue[EngineEvent] = queue.Queue()

    def deliver(event: EngineEvent) -> None:
        events.put(event)
        if isinstance(event, Token):
            raise SystemExit
        if isinstance(event, Failed):
            raise KeyboardInterrupt

    other = Run(engine, job(engine, prompt(10, 1), 3000))
    while not other.tokens:
        time.sleep(0.001)
    engine.submit(job(engine, prompt(10, 2), 500), deliver)
    assert isinstance(other.wait().events[-1], Failed)
    delivered = [events.get(timeout=PATIENCE) for _ in range(4)]
    assert isinstance(delivered[-1], Failed)
    assert "SystemExit" in delivered[-1].message
    assert Run(engine, job(engine, prompt(20, 4), 6)).wait().tokens == generate(prompt(20, 4), 6)
    assert events.empty()
    assert last_events(other) == 1


@pytest.mark.parametrize("kind", [Started, Token, Finished])
def test_a_listener_that_fails_loses_its_job_and_disturbs_no_other(engines, generate, kind, caplog):
    engine = engines()
    events: queue.Queue[EngineEvent] = queue.Queue()

    def deliver(event: EngineEvent) -> None:
        events.put(event)
        if isinstance(event, kind | Failed):
            raise ValueError("the loop is gone")

    other = Run(engine, job(engine, prompt(20, 1), 40))
    engine.submit(job(engine, prompt(20, 2), 5), deliver)
    assert other.wait().tokens == generate(prompt(20, 1), 40)
    delivered = [events.get_nowait() for _ in range(events.qsize())]
    assert sum(isinstance(event, LastEvent) for event in delivered) == 1
    if kind is not Finished:
        assert delivered[-1].message == "its listener failed: ValueError: the loop is gone"
        assert isinstance(delivered[-2], kind)
    assert engine.stats().restarts == engine.stats().running == 0
    assert "a listener failed" in caplog.text


def die(engine: Any, pending: list[BaseException]) -> Run:
    pending.append(Fatal())
    return Run(engine, job(engine, prompt(5, 1), 3)).wait()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_fifth_death_within_a_minute_is_the_last(engines, tiny_model):
    model, pending = mortal(tiny_model)
    engine = engines(model)
    for death in range(1, 6):
        assert "thread died" in die(engine, pending).events[-1].message
        if death < 5:
            wait_for(lambda death=death: engine.stats().restarts == death)
            assert engine.stats().alive
    stats = engine.stats()
    assert (stats.restarts, stats.alive, stats.running) == (4, False, 0)
    assert "Fatal" in stats.error
    with pytest.raises(EngineError, match="takes no more jobs, restart the server: the engine's thread died: Fatal"):
        engine.submit(job(engine, prompt(5, 1), 3), print)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(job(engine, prompt(5, 1), 3), print)


def test_deaths_that_are_far_apart_are_survived(engines, tiny_model, monkeypatch, generate):
    monkeypatch.setattr(torch_engine, "DEATHS_SECONDS", 0.0)
    model, pending = mortal(tiny_model)
    engine = engines(model)
    for _ in range(8):
        die(engine, pending)
    assert Run(engine, job(engine, prompt(20, 4), 6)).wait().tokens == generate(prompt(20, 4), 6)
    assert engine.stats().restarts == 8


def test_without_a_thread_to_take_over_the_engine_is_dead_and_says_so(engines, tiny_model, monkeypatch):
    model, pending = mortal(tiny_model)
    engine = engines(model)

    def refuse() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(engine, "_start_thread", refuse)
    assert isinstance(die(engine, pending).events[-1], Failed)
    wait_for(lambda: not engine.stats().alive)
    with pytest.raises(EngineError, match="no other could be started: can't start new thread"):
        engine.submit(job(engine, prompt(5, 1), 3), print)


@pytest.mark.parametrize("last", [5, 1000], ids=["that dies for good", "that comes back"])
def test_who_submits_while_it_dies_is_told_once(engines, tiny_model, monkeypatch, last):
    """Threads that submit beside a model that keeps killing its thread."""
    monkeypatch.setattr(torch_engine, "MAX_DEATHS", last)
    monkeypatch.setattr(torch_engine.log, "disabled", True)
    steps = itertools.count(1)

    def forward(chosen: Any) -> Any:
        if next(steps) % 3 == 0:
            raise SystemExit
        return tiny_model.forward(chosen)

    engine = engines(Changed(tiny_model, forward=forward))
    runs: list[Run] = []
    refused: list[EngineError] = []

    def submit(seed: int) -> None:
        for n in range(40 if last == 1000 else 10_000):
            try:
                runs.append(Run(engine, job(engine, prompt(6, seed), 1 + n % 3)))
            except EngineError as error:
                refused.append(error)
                return
            time.sleep(0.001 * (n % 4))

    threads = [threading.Thread(target=submit, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for run in runs:
        run.wait()
    assert len(refused) == (3 if last == 5 else 0)
    assert engine.stats().alive is (last == 1000)
    engine.close()
    assert [last_events(run) for run in runs] == [1] * len(runs)


def test_closing_while_it_dies_leaves_no_thread_and_no_job(engines, tiny_model, monkeypatch):
    monkeypatch.setattr(torch_engine.log, "disabled", True)
    for delay in (0.0, 0.0005, 0.001, 0.002):
        model, pending = mortal(tiny_model)
        engine = engines(model)
        runs = [Run(engine, job(engine, prompt(6, n), 200)) for n in range(3)]
        pending.append(Fatal())
        time.sleep(delay)
        runs += [Run(engine, job(engine, prompt(6, n), 200)) for n in range(3)]
        engine.close()
        for run in runs:
            run.wait()
        assert [last_events(run) for run in runs] == [1] * 6
        assert not engine._thread.is_alive()


def test_an_engine_whose_thread_cannot_begin_is_refused(tiny_model, monkeypatch):
    def refused(_: int) -> None:
        raise OverflowError("too many threads")

    before = set(threading.enumerate())
    monkeypatch.setattr(torch_engine.torch, "set_num_threads", refused)
    with pytest.raises(EngineError, match=r"the engine could not begin: .*OverflowError: too many threads"):
        torch_engine.TorchEngine(tiny_model, threads=1)
    assert {each for each in threading.enumerate() if each.name == "torch-engine" and each.is_alive()} <= before
