"""Virtual time: asyncio code does what it does in real time, and says the same in debug mode."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ragcache.replay.virtual_time import VirtualTimeLoop, run_virtual

UNIT = 0.05  # seconds: what scenarios that also run in real time sleep


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
