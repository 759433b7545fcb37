"""Virtual time and the world outside: work for threads runs here, and what would wait for real is refused by name."""

import asyncio
import contextlib
import socket
import sys
import threading

import pytest

from ragcache.cache.mover import InlineMover, ThreadMover
from ragcache.replay.virtual_time import _REFUSED, DeadlockError, OutsideWorldError, VirtualTimeLoop, run_virtual


def now() -> float:
    return asyncio.get_running_loop().time()


def test_work_for_an_executor_is_done_here_and_at_once():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here = threading.get_ident()
        order: list[str] = []
        loop.call_soon(order.append, "other")
        future = loop.run_in_executor(None, threading.get_ident)
        assert not future.done()  # as with a thread, there is a turn of the loop between
        assert await future == here
        assert order == ["other"]
        assert now() == 0.0
        forgotten = loop.run_in_executor(None, int)
        forgotten.cancel()
        await asyncio.sleep(0)

    run_virtual(main())


def test_moves_that_take_no_time_run_here():
    async def main() -> list[object]:
        values: list[object] = []
        InlineMover().submit(lambda: 1, lambda moved: values.append(moved.value))
        return values

    assert run_virtual(main()) == [1]


def test_another_thread_is_refused_and_named_when_nothing_goes_on():
    async def main() -> None:
        mover = ThreadMover("from-outside")
        done = asyncio.get_running_loop().create_future()
        mover.submit(lambda: 1, done.set_result)
        await asyncio.get_running_loop().run_in_executor(None, mover.close)
        await done

    with pytest.raises(DeadlockError, match="thread 'from-outside_0' had called, and was refused"):
        run_virtual(main())


def test_calls_from_this_thread_are_welcome():
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        loop.call_soon_threadsafe(seen.append, 1)
        await asyncio.sleep(0)
        return seen

    assert run_virtual(main()) == [1]


@pytest.mark.parametrize("name", _REFUSED)
def test_the_outside_world_is_refused(name):
    assert hasattr(asyncio.AbstractEventLoop, name)
    with contextlib.closing(VirtualTimeLoop()) as loop, pytest.raises(OutsideWorldError, match=f"^{name}: "):
        getattr(loop, name)()


def test_a_connection_and_a_process_are_refused_where_they_are_asked_for():
    async def main() -> None:
        with pytest.raises(OutsideWorldError, match="create_connection"):
            await asyncio.open_connection("localhost", 1)
        with pytest.raises(OutsideWorldError, match="subprocess_exec"):
            await asyncio.create_subprocess_exec(sys.executable)
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(OutsideWorldError, match="sock_recv"):
            await asyncio.get_running_loop().sock_recv(ours, 1)

    run_virtual(main())


def test_everything_asyncio_offers_works_or_is_refused():
    """A method of the interface that the base class leaves out must not end in a confusing error."""
    left = {
        name
        for name in vars(asyncio.AbstractEventLoop)
        if not name.startswith("_") and getattr(VirtualTimeLoop, name) is getattr(asyncio.AbstractEventLoop, name)
    }
    assert left == set()
