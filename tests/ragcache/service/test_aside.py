"""Work aside: nothing waits for it that need not, and what no caller takes is discarded."""

import asyncio
import threading

import pytest

from ragcache.service.aside import aside
from tests.props.asking import PATIENCE, until
from tests.props.scripted_finder import ScriptedFinder
from tests.props.virtual_service import service_of


def ended(thread_name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == thread_name:
            thread.join(PATIENCE)


@pytest.mark.parametrize("turns", [0, 1])  # of the loop: before it hears of the end; before the caller does
def test_what_is_made_when_its_caller_is_cancelled_is_discarded(turns: int) -> None:
    discarded: list[str] = []

    async def main() -> None:
        caller = asyncio.create_task(aside(lambda: "made", discarded.append))
        await asyncio.sleep(0)
        ended("aside")
        for _ in range(turns):
            await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await until(lambda: discarded == ["made"])

    asyncio.run(main())


def test_what_is_made_later_is_discarded() -> None:
    cancelled, discarded = threading.Event(), list[bool]()

    async def main() -> None:
        caller = asyncio.create_task(aside(lambda: cancelled.wait(PATIENCE), discarded.append))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    asyncio.run(main())
    cancelled.set()
    ended("aside")
    assert discarded == [True]


def test_a_caller_that_is_not_cancelled_gets_what_is_made() -> None:
    discarded: list[object] = []
    assert asyncio.run(aside(lambda: "made", discarded.append)) == "made"
    with pytest.raises(ZeroDivisionError):
        asyncio.run(aside(lambda: 1 // 0, discarded.append))
    assert discarded == []


def test_a_failure_that_a_cancelled_caller_does_not_hear_of_is_dropped() -> None:
    async def main() -> None:
        caller = asyncio.create_task(aside(lambda: 1 // 0, pytest.fail))
        await asyncio.sleep(0)
        ended("aside")
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    asyncio.run(main())


def test_the_search_in_a_finder_that_was_replaced_does_not_keep_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop_closed, closings = threading.Event(), list[bool]()
    monkeypatch.setattr(ScriptedFinder, "close", lambda _: closings.append(loop_closed.wait(PATIENCE)))

    async def main() -> None:
        service_of({})._finders.replace(ScriptedFinder({}))

    asyncio.run(main())
    loop_closed.set()
    ended("close")
    assert closings == [True]
