"""An event loop in a thread of its own returns results and errors to other threads, and ends with all its tasks."""

import asyncio
import threading

import pytest

from ragcache.engine.vllm.front.loop_thread import LoopThread


@pytest.fixture
def thread():
    made = LoopThread("test-loop")
    yield made
    if not made.loop.is_closed():
        made.end()


def test_results_and_errors_come_back(thread):
    async def answer(error=None):
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return threading.current_thread().name

    assert thread.result_of(answer()) == "test-loop"
    with pytest.raises(KeyError, match="lost"):
        thread.result_of(answer(KeyError("lost")))


def test_a_callback_runs_in_the_loop(thread):
    called = threading.Event()
    names = []
    thread.call(lambda: (names.append(threading.current_thread().name), called.set()))
    assert called.wait(10)
    assert names == ["test-loop"]


def test_its_end_cancels_what_runs(thread):
    ends = []

    async def run_for_ever():
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cancelled")

    async def start():
        task = asyncio.get_running_loop().create_task(run_for_ever())
        await asyncio.sleep(0)
        return task

    task = thread.result_of(start())
    thread.end()
    assert task.cancelled()
    assert ends == ["cancelled"]
    with pytest.raises(RuntimeError, match="closed"):
        thread.call(print)
    assert "test-loop" not in [each.name for each in threading.enumerate()]
