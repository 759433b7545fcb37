"""Virtual time: asyncio code runs unchanged and without waiting, equal runs are equal, a deadlock names its tasks."""

import asyncio
import contextlib
import gc
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ragcache.replay.virtual_time import DeadlockError, VirtualTimeLoop, run_virtual

HOUR = 3600.0
UNIT = 0.05  # seconds: what scenarios that also run in real time sleep


def now() -> float:
    return asyncio.get_running_loop().time()


async def a_queue_between_tasks(log: list[Any]) -> None:
    queue: asyncio.Queue[int | None] = asyncio.Queue(maxsize=2)

    async def produce() -> None:
        for number in range(5):
            await queue.put(number)
            log.append(("put", number))
        await queue.put(None)

    async def consume() -> None:
        while (number := await queue.get()) is not None:
            log.append(("got", number))
            await asyncio.sleep(UNIT)

    await asyncio.gather(produce(), consume())


async def timeouts(log: list[Any]) -> None:
    for seconds in (UNIT, 3 * UNIT):
        try:
            async with asyncio.timeout(2 * UNIT):
                await asyncio.sleep(seconds)
            log.append("in time")
        except TimeoutError:
            log.append("too late")
        try:
            log.append(await asyncio.wait_for(asyncio.sleep(seconds, "slept"), 2 * UNIT))
        except TimeoutError:
            log.append("no longer awaited")


async def cancellation(log: list[Any]) -> None:
    async def worker(name: str) -> None:
        try:
            await asyncio.sleep(100 * UNIT)
        except asyncio.CancelledError:
            log.append(f"{name} cancelled")
            await asyncio.sleep(UNIT)
            log.append(f"{name} cleaned up")
            raise

    tasks = [asyncio.create_task(worker(name)) for name in "ab"]
    await asyncio.sleep(UNIT)
    tasks[0].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await tasks[0]
    tasks[1].cancel()
    log.append(await asyncio.gather(*tasks, return_exceptions=True) == [])


async def a_group_that_fails(log: list[Any]) -> None:
    async def fails() -> None:
        await asyncio.sleep(UNIT)
        raise ValueError("no")

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("let go")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(fails())
    except* ValueError as caught:
        log.append([str(error) for error in caught.exceptions])


async def locks_conditions_and_who_comes_first(log: list[Any]) -> None:
    condition, semaphore = asyncio.Condition(), asyncio.Semaphore(2)
    open_now = False

    async def worker(number: int) -> None:
        async with condition:
            await condition.wait_for(lambda: open_now)
        async with semaphore:
            log.append(number)
            await asyncio.sleep(UNIT * (5 - number))  # no two at one time: real time has no ties
        log.append(-number)

    tasks = [asyncio.create_task(worker(number)) for number in range(1, 4)]
    await asyncio.sleep(UNIT)
    async with condition:
        open_now = True
        condition.notify_all()
    for next_one in asyncio.as_completed(tasks):
        await next_one
        log.append("done")


async def generators_and_work_beside(log: list[Any]) -> None:
    async def ticks(count: int) -> Any:
        try:
            for number in range(count):
                await asyncio.sleep(UNIT)
                yield number
        finally:
            await asyncio.sleep(UNIT)
            log.append("closed")

    async with contextlib.aclosing(ticks(9)) as stream:
        async for number in stream:
            log.append(number)
            if number == 2:
                break
    log.append(await asyncio.to_thread(sum, [1, 2, 3]))
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 // 0)


SCENARIOS = [
    a_queue_between_tasks,
    timeouts,
    cancellation,
    a_group_that_fails,
    locks_conditions_and_who_comes_first,
    generators_and_work_beside,
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_asyncio_code_does_what_it_does_in_real_time(scenario: Callable[[list[Any]], Coroutine[Any, Any, None]]):
    real: list[Any] = []
    virtual: list[Any] = []
    asyncio.run(scenario(real))
    run_virtual(scenario(virtual))
    assert virtual == real != []


def test_debug_mode_changes_nothing():
    log: list[Any] = []
    loop = VirtualTimeLoop()
    loop.set_debug(True)
    with contextlib.closing(loop):
        loop.run_until_complete(timeouts(log))
    again: list[Any] = []
    run_virtual(timeouts(again))
    assert log == again


@pytest.mark.timing
def test_an_hour_takes_no_time():
    async def main() -> list[float]:
        times = [now()]
        for _ in range(1000):
            await asyncio.sleep(HOUR)
        return [*times, now()]

    begin = time.perf_counter()
    assert run_virtual(main()) == [0.0, 1000 * HOUR]
    assert time.perf_counter() - begin < 2


def test_time_stands_still_while_anything_is_ready():
    async def main() -> None:
        reached = []
        asyncio.get_running_loop().call_later(1e-9, reached.append, True)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert now() == 0.0
        assert not reached
        await asyncio.sleep(1e-9)
        assert reached

    run_virtual(main())


def test_a_timer_runs_at_its_own_time_exactly():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        times = [random.Random(0).random() * 1e6 for _ in range(100)]
        seen: list[tuple[float, float]] = []
        for when in times:
            loop.call_at(when, lambda when=when: seen.append((when, loop.time())))
        await asyncio.sleep(1e6)
        assert seen == [(when, when) for when in sorted(times)]

    run_virtual(main())


def test_at_equal_times_in_the_order_in_which_they_were_set():
    order: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        shuffled = random.Random(1)
        expected: list[tuple[float, int]] = []
        for number in range(2000):  # a heap without a second key would give these in any order
            when = float(shuffled.randrange(1, 20))
            expected.append((when, number))
            loop.call_at(when, order.append, (when, number))
        await asyncio.sleep(30)
        assert order == sorted(expected)

    run_virtual(main())


def test_what_a_timer_makes_ready_comes_after_its_equals():
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        order: list[str] = []

        def first() -> None:
            order.append("first")
            loop.call_soon(order.append, "made ready by the first")
            loop.call_at(1.0, order.append, "set late for the same time")
            loop.call_at(0.5, order.append, "set for the past")

        loop.call_at(1.0, first)
        loop.call_at(1.0, order.append, "second")
        await asyncio.sleep(2)
        return order

    # what is ready goes first; then what is due, by time
    late = ["made ready by the first", "set for the past", "set late for the same time"]
    assert run_virtual(main()) == ["first", "second", *late]


def test_cancelled_timers_neither_run_nor_move_time_nor_pile_up():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        ran: list[int] = []
        for number in range(10_000):
            loop.call_later(HOUR, ran.append, number).cancel()
        kept = loop.call_later(1, ran.append, -1)
        assert len(loop._timers) < 200
        for _ in range(1000):
            await asyncio.wait_for(asyncio.sleep(0.001), HOUR)
        assert len(loop._timers) < 200
        assert (now(), ran) == (pytest.approx(1.0), [-1])
        kept.cancel()  # too late: harmless

    run_virtual(main())


def test_a_timer_of_infinity_is_never_and_one_of_no_number_is_refused():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(float("inf"), print)
        with pytest.raises(ValueError, match="not a number"):
            loop.call_later(float("nan"), print)
        await asyncio.sleep(5)
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match=r"at 5\.0 s"):
        run_virtual(main())


def test_a_deadlock_names_what_waits():
    async def reader(queue: asyncio.Queue[int]) -> None:
        await queue.get()

    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        readers = [asyncio.create_task(reader(queue), name=f"reader {number}") for number in range(30)]
        await asyncio.sleep(2.5)
        await asyncio.gather(*readers)

    with pytest.raises(DeadlockError) as caught:
        run_virtual(main())
    message = str(caught.value)
    assert message.startswith("at 2.5 s of virtual time nothing is ready and no timer is set; Task-1 waits in ")
    assert "test_a_deadlock_names_what_waits.<locals>.main (line " in message
    assert "; reader 0 waits in test_a_deadlock_names_what_waits.<locals>.reader (line " in message
    assert " > Queue.get (line " in message
    assert message.endswith("; and 11 more tasks")


def test_after_a_deadlock_everyone_cleans_up():
    log: list[str] = []

    async def main() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(1)
            log.append("cleaned up")

    with pytest.raises(DeadlockError):
        run_virtual(main())
    assert log == ["cleaned up"]


def test_errors_and_results_come_through_and_leftovers_are_cancelled():
    log: list[str] = []

    async def leftover() -> None:
        try:
            await asyncio.sleep(HOUR)
        finally:
            log.append("cancelled")

    async def main(error: Exception | None) -> int:
        task = asyncio.create_task(leftover())
        await asyncio.sleep(1)
        assert not task.done()
        if error is not None:
            raise error
        return 7

    assert run_virtual(main(None)) == 7
    with pytest.raises(LookupError, match="gone"):
        run_virtual(main(LookupError("gone")))
    assert log == ["cancelled", "cancelled"]


def test_an_interrupt_ends_it():
    log: list[str] = []

    async def main() -> None:
        try:
            while True:
                await asyncio.sleep(HOUR)
                if now() == 10 * HOUR:
                    signal.raise_signal(signal.SIGINT)
        finally:
            log.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main())
    assert log == ["cleaned up"]


def test_the_loop_leaves_nothing_behind():
    async def main() -> None:
        await asyncio.sleep(1)

    run_virtual(main())
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    with contextlib.closing(VirtualTimeLoop()) as loop:
        loop.call_later(HOUR, print)
    assert loop.is_closed()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)


STORM = """
import asyncio, random
from ragcache.replay.virtual_time import run_virtual
log, rng = [], random.Random(5)
async def worker(number, queue, event):
    for _ in range(20):
        await asyncio.sleep(rng.choice([0, 0.5, 1, 1.5]))
        try:
            async with asyncio.timeout(rng.choice([0.5, 1])):
                await queue.put(number)
                log.append((number, asyncio.get_running_loop().time(), await queue.get()))
                if rng.random() < 0.2:
                    await event.wait()
        except TimeoutError:
            log.append((number, "late"))
async def dawdle(number, held):
    held.append(object())  # so that addresses differ from run to run
    try:
        await asyncio.sleep(100)
    finally:
        log.append(("cancelled", number))
async def main():
    queue, event, held = asyncio.Queue(3), asyncio.Event(), []
    await asyncio.gather(*(worker(number, queue, event) for number in range(20)))
    done, pending = await asyncio.wait([asyncio.create_task(asyncio.sleep(1, n)) for n in range(9)])
    log.append([task.result() for task in done])
    try:
        async with asyncio.TaskGroup() as group:  # which cancels a set of tasks
            for number in range(50):
                group.create_task(dawdle(number, held))
            await asyncio.sleep(1)
            raise KeyError
    except* KeyError:
        pass
run_virtual(main())
print(log)
"""


def test_equal_runs_are_equal_in_other_processes_too():
    command = [sys.executable, "-c", STORM]
    outputs = {subprocess.run(command, capture_output=True, check=True, timeout=60).stdout for _ in range(4)}
    assert len(outputs) == 1
    (output,) = outputs
    assert b"'late'" in output
    assert b"'cancelled', 49" in output


@pytest.mark.timing
def test_it_is_fast():
    """300,000 callbacks a second on a quiet core; half of that here, where neighbours work."""
    count = 100_000

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        left = count

        def callback() -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set_result(None)
            elif left % 2:
                loop.call_soon(callback)
            else:
                loop.call_later(0.25, callback)

        callback()
        await done

    def seconds() -> float:
        gc.collect()
        begin = time.process_time()
        run_virtual(main())
        return time.process_time() - begin

    assert count / min(seconds() for _ in range(3)) > 150_000
