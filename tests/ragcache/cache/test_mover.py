"""Movers work in order, report every end in the loop's thread, and keep nothing of what they moved."""

import asyncio
import gc
import threading
import time
import weakref

import pytest

from ragcache.cache.mover import InlineMover, Moved, ThreadMover, timed


class Memory:
    pass


def fail_with(memory: Memory) -> None:
    del memory
    raise OSError("no")


def test_a_failed_move_keeps_no_memory_until_the_garbage_is_collected():
    gc.disable()
    try:
        memory = Memory()
        alive = weakref.ref(memory)
        moved = timed(lambda held=memory: fail_with(held))
        assert isinstance(moved.error, OSError)
        del memory
        assert alive() is None
    finally:
        gc.enable()


def test_inline_is_done_at_once():
    endings: list[Moved] = []
    InlineMover().submit(lambda: 7, endings.append)
    assert [(moved.value, moved.error) for moved in endings] == [(7, None)]


def test_a_thread_works_in_order_and_tells_in_the_loop():
    mover = ThreadMover("mover")
    endings: list[tuple[object, str]] = []
    workers: set[str] = set()

    def work(number: int) -> int:
        workers.add(threading.current_thread().name)
        time.sleep(0.001)
        if number == 3:
            raise ValueError("three")
        return number

    async def main() -> None:
        for number in range(6):
            mover.submit(
                lambda number=number: work(number),
                lambda moved: endings.append((moved.value or str(moved.error), threading.current_thread().name)),
            )
        assert mover.pending == 6
        while mover.pending:
            await asyncio.sleep(0.001)

    asyncio.run(main())
    mover.close()
    assert [value for value, _ in endings] == ["None", 1, 2, "three", 4, 5]
    assert {name for _, name in endings} == {threading.main_thread().name}
    assert len(workers) == 1
    assert threading.main_thread().name not in workers


def test_a_loop_that_is_gone_does_not_end_the_thread():
    mover = ThreadMover("mover")
    done = threading.Event()

    async def main() -> None:
        mover.submit(lambda: time.sleep(0.05), lambda _: pytest.fail("nothing was left to call"))
        mover.submit(done.set, lambda _: None)

    asyncio.run(main())
    mover.close()
    assert done.is_set()
