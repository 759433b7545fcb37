"""The virtual mover: one piece of work after the other, each as long as it spends, reported in order."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ragcache.cache.mover import Moved
from ragcache.engine.simulated.engine import SimulatedKV
from ragcache.replay.virtual_mover import SimulatedHost, VirtualMover
from ragcache.replay.virtual_time import run_virtual


class Record:
    """A mover with pieces of work that spend a number of seconds each, and what it reported of them, with the time."""

    def __init__(self) -> None:
        self.mover = VirtualMover()
        self.begun: list[tuple[float, str]] = []
        self.ended: list[tuple[float, str, Moved]] = []

    def submit(self, name: str, seconds: float, then: Callable[[], object] = lambda: None) -> None:
        loop = asyncio.get_running_loop()

        def work() -> str:
            self.begun.append((loop.time(), name))
            self.mover.spend(seconds)
            return name

        def done(moved: Moved) -> None:
            self.ended.append((loop.time(), name, moved))
            then()

        self.mover.submit(work, done)

    @property
    def names(self) -> list[tuple[float, str]]:
        return [(time, name) for time, name, _ in self.ended]


def ran(act: Callable[[Record], Any], seconds: float = 100.0) -> Record:
    async def main() -> Record:
        record = Record()
        act(record)
        await asyncio.sleep(seconds)
        return record

    return run_virtual(main())


def test_work_is_done_one_at_a_time_and_takes_what_it_spends():
    def act(record: Record) -> None:
        for name, seconds in (("a", 2.0), ("b", 0.0), ("c", 3.0)):
            record.submit(name, seconds)
        assert record.mover.pending == 3
        assert record.ended == []  # no callback before the submitter is back in its loop

    record = ran(act)
    assert record.begun == [(0.0, "a"), (2.0, "b"), (2.0, "c")]
    assert record.names == [(2.0, "a"), (2.0, "b"), (5.0, "c")]
    assert [moved for _, _, moved in record.ended] == [
        Moved("a", None, 2.0),
        Moved("b", None, 0.0),
        Moved("c", None, 3.0),
    ]
    assert record.mover.pending == 0


def test_several_transfers_of_one_piece_add_up():
    async def main() -> Moved:
        mover = VirtualMover()
        record: asyncio.Future[Moved] = asyncio.get_running_loop().create_future()
        mover.spend(50.0)  # outside of any work: it lengthens none

        def work() -> None:
            mover.spend(1.0)
            mover.spend(0.5)

        mover.submit(work, record.set_result)
        moved = await record
        assert asyncio.get_running_loop().time() == 1.5
        return moved

    assert run_virtual(main()).seconds == 1.5


def test_who_is_told_may_submit_more_behind_those_who_wait():
    def act(record: Record) -> None:
        record.submit("a", 1.0, then=lambda: record.submit("late", 1.0))
        record.submit("b", 1.0)

    record = ran(act)
    assert record.names == [(1.0, "a"), (2.0, "b"), (3.0, "late")]


def test_pending_counts_what_is_not_done():
    pending: list[int] = []

    def act(record: Record) -> None:
        for number in range(3):
            record.submit(str(number), 1.0, then=lambda: pending.append(record.mover.pending))

    ran(act)
    assert pending == [2, 1, 0]


def test_work_that_fails_is_told_after_its_time_and_the_next_goes_on():
    async def main() -> None:
        mover, record = VirtualMover(), []

        def fails() -> None:
            mover.spend(2.0)
            raise MemoryError("no room")

        mover.submit(fails, record.append)
        mover.submit(lambda: "fine", record.append)
        await asyncio.sleep(1.9)
        assert record == []
        await asyncio.sleep(0.2)
        failed, fine = record
        assert (str(failed.error), failed.value, failed.seconds) == ("no room", None, 2.0)
        assert failed.error.__traceback__ is None  # it would keep the KV that was moved
        assert fine == Moved("fine", None, 0.0)

    run_virtual(main())


def test_what_waits_when_it_is_closed_is_finished_and_not_told():
    def act(record: Record) -> None:
        record.submit("a", 1.0)
        record.submit("b", 1.0)
        record.mover.close()

    record = ran(act)
    assert record.begun == [(0.0, "a"), (0.0, "b")]
    assert "b" not in [name for _, name in record.names]
    assert record.mover.pending == 0


@pytest.mark.parametrize(("tokens", "seconds"), [(1, 0.25), (8, 2.0)])
def test_a_copy_takes_its_bytes_over_the_rate(tokens, seconds):
    async def main() -> None:
        mover = VirtualMover()
        host = SimulatedHost(mover, bytes_per_token=100, rate=400.0)
        kv = SimulatedKV(tokens + 5, tokens)  # room that is not filled is not moved
        for move in (host.put, host.load):
            begin = asyncio.get_running_loop().time()
            record: asyncio.Future[Moved] = asyncio.get_running_loop().create_future()
            mover.submit(lambda move=move: move(kv), record.set_result)
            moved = await record
            assert (moved.value.length, moved.value.capacity) == (tokens, tokens)
            assert moved.value is not kv
            assert asyncio.get_running_loop().time() - begin == pytest.approx(seconds)

    run_virtual(main())
