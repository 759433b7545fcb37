"""Leases come in order of arrival; a request that leaves or gives up wakes the next; no memory is lost on the way."""

import asyncio
import random
from collections.abc import Callable
from itertools import permutations

import pytest

from ragcache.schedule.admission import AdmissionQueue


class FakeLease:
    """Units of a shared pool, as a lease is of memory."""

    follows = False

    def __init__(self, pool: "Pool", size: int) -> None:
        self.pool, self.size = pool, size

    def release(self) -> None:
        self.pool.free += self.size
        self.size = 0


class FollowingLease(FakeLease):
    """A lease that is ready once its KV has come, from another request."""

    def __init__(self, pool: "Pool", size: int) -> None:
        super().__init__(pool, size)
        self.ready, self.tell = False, lambda: None

    @property
    def follows(self) -> bool:
        return not self.ready

    def when_ready(self, callback: Callable[[], object]) -> None:
        self.tell = callback
        if self.ready:
            callback()

    def come(self) -> None:
        self.ready = True
        self.tell()


class Pool:
    def __init__(self, free: int) -> None:
        self.free = free

    def asks(self, size: int) -> Callable[[], FakeLease | None]:
        def lease() -> FakeLease | None:
            if size > self.free:
                return None
            self.free -= size
            return FakeLease(self, size)

        return lease


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 10))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_order_of_arrival_even_if_a_later_one_would_fit():
    async def scenario():
        pool, waiting = Pool(10), AdmissionQueue(8)
        order = []

        async def request(name, size):
            lease = await waiting.admit(pool.asks(size))
            order.append(name)
            return lease

        big = await request("big", 8)
        second = asyncio.create_task(request("second", 5))
        await settle()
        third = asyncio.create_task(request("third", 1))
        await settle()
        assert order == ["big"]
        assert (len(waiting), waiting.running) == (2, 1)
        big.release()
        waiting.leave(big)
        await asyncio.gather(second, third)
        assert order == ["big", "second", "third"]
        assert (len(waiting), waiting.running) == (0, 2)

    run(scenario())


def test_no_more_run_than_may():
    async def scenario():
        pool, waiting = Pool(100), AdmissionQueue(2)
        tasks = [asyncio.create_task(waiting.admit(pool.asks(1))) for _ in range(5)]
        await settle()
        assert (len(waiting), waiting.running) == (3, 2)
        for done in range(1, 6):
            lease = await tasks[done - 1]
            lease.release()
            waiting.leave(lease)
            await settle()
            assert waiting.running == min(2, 5 - done)
        assert pool.free == 100

    run(scenario())


def test_giving_up_at_the_head_lets_the_next_go():
    async def scenario():
        pool, waiting = Pool(4), AdmissionQueue(8)
        held = await waiting.admit(pool.asks(2))
        head = asyncio.create_task(waiting.admit(pool.asks(4)))
        await settle()
        behind = asyncio.create_task(waiting.admit(pool.asks(2)))
        await settle()
        head.cancel()
        lease = await behind
        assert (len(waiting), waiting.running) == (0, 2)
        for one in (held, lease):
            one.release()
            waiting.leave(one)
        assert (pool.free, waiting.running) == (4, 0)

    run(scenario())


def test_giving_up_in_the_middle_keeps_the_order():
    async def scenario():
        pool, waiting = Pool(1), AdmissionQueue(8)
        order = []

        async def request(name):
            lease = await waiting.admit(pool.asks(1))
            order.append(name)
            lease.release()
            waiting.leave(lease)

        first = await waiting.admit(pool.asks(1))
        tasks = [asyncio.create_task(request(i)) for i in range(4)]
        await settle()
        tasks[1].cancel()
        await settle()
        assert len(waiting) == 3
        first.release()
        waiting.leave(first)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 2, 3]
        assert pool.free == 1

    run(scenario())


def test_cancelled_between_admission_and_its_turn_gives_the_lease_back():
    async def scenario():
        pool, waiting = Pool(1), AdmissionQueue(8)
        first = await waiting.admit(pool.asks(1))
        second = asyncio.create_task(waiting.admit(pool.asks(1)))
        third = asyncio.create_task(waiting.admit(pool.asks(1)))
        await settle()
        first.release()
        waiting.leave(first)  # the second is admitted here ...
        second.cancel()  # ... and cancelled before it runs again
        with pytest.raises(asyncio.CancelledError):
            await second
        last = await third
        last.release()
        waiting.leave(last)
        assert (pool.free, waiting.running, len(waiting)) == (1, 0, 0)

    run(scenario())


def test_every_order_of_ends_and_cancellations_wakes_all_others():
    """No lost wake-up: whatever ends in whatever order, all others are admitted and the pool is whole again."""

    async def scenario(order):
        pool, waiting = Pool(3), AdmissionQueue(2)
        served = []

        async def request(name, size):
            lease = await waiting.admit(pool.asks(size))
            try:
                served.append(name)
                await asyncio.sleep(0)
            finally:
                lease.release()
                waiting.leave(lease)

        tasks = [asyncio.create_task(request(i, size)) for i, size in enumerate([3, 1, 2, 3])]
        await settle() if order[0] % 2 else await asyncio.sleep(0)
        for victim in order[:2]:
            tasks[victim].cancel()
            await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for name, result in enumerate(results):
            assert result is None or name in order[:2]
        assert (pool.free, waiting.running, len(waiting)) == (3, 0, 0)

    for order in permutations(range(4)):
        run(scenario(order))


def test_a_crowd_with_random_cancellations_ends_with_everything_back():
    async def scenario():
        chance = random.Random(5)
        pool, waiting = Pool(7), AdmissionQueue(3)

        async def request(size):
            lease = await waiting.admit(pool.asks(size))
            try:
                assert waiting.running <= 3
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                lease.release()
                waiting.leave(lease)

        tasks = []
        for _ in range(400):
            tasks.append(asyncio.create_task(request(chance.randint(1, 7))))
            if chance.random() < 0.4:
                chance.choice(tasks).cancel()
            await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {type(None), asyncio.CancelledError}
        assert (pool.free, waiting.running, len(waiting)) == (7, 0, 0)

    run(scenario())


def test_leases_that_follow_take_slots_when_they_are_ready_and_before_the_queue():
    async def scenario():
        pool, waiting, blocked, calls = (
            Pool(100),
            AdmissionQueue(1, on_blocked=lambda _: blocked.append(1)),
            [],
            [],
        )
        following = [FollowingLease(pool, 0) for _ in range(3)]
        for number, lease in enumerate(following):
            assert await waiting.admit(lambda lease=lease: lease) is lease
            waiting.when_ready(lease, lambda number=number: calls.append(number))
        assert (waiting.running, waiting.following, waiting.free_slots) == (3, 3, 1)
        first = await waiting.admit(pool.asks(1))
        queued = asyncio.create_task(waiting.admit(pool.asks(1)))
        await settle()
        assert (waiting.running, len(waiting), waiting.free_slots) == (4, 1, 0)
        blocked.clear()
        following[2].come()
        following[0].come()
        assert (calls, len(blocked)) == ([], 2)
        for lease, called in ((first, [0]), (following[0], [0, 2])):  # the order of their turns
            lease.release()
            waiting.leave(lease)
            await settle()
            assert calls == called
        assert not queued.done()
        following[1].release()
        waiting.leave(following[1])  # before it is ready
        await settle()
        assert (waiting.running, len(waiting)) == (1, 1)
        following[2].release()
        waiting.leave(following[2])
        last = await queued
        last.release()
        waiting.leave(last)
        assert (pool.free, waiting.running, waiting.following, waiting.free_slots) == (100, 0, 0, 1)

    run(scenario())


def test_a_lease_for_a_broken_one_gives_up_the_slot_if_it_follows():
    """Else it could wait for a request that waits for its slot."""

    async def scenario():
        pool, waiting, calls = Pool(10), AdmissionQueue(1), []
        broken = await waiting.admit(pool.asks(1))
        behind = asyncio.create_task(waiting.admit(pool.asks(1)))
        await settle()
        broken.release()
        renewed = FollowingLease(pool, 0)
        waiting.renew(broken, renewed)
        waiting.when_ready(renewed, lambda: calls.append(1))
        other = await behind
        renewed.come()
        assert (waiting.running, calls) == (2, [])
        other.release()
        waiting.leave(other)
        assert calls == [1]
        again = FakeLease(pool, 0)
        renewed.release()
        waiting.renew(renewed, again)
        assert (waiting.running, waiting.free_slots) == (1, 0)
        waiting.leave(again)
        assert (pool.free, waiting.running, waiting.free_slots) == (10, 0, 1)

    run(scenario())


def test_one_that_follows_and_is_cancelled_as_it_is_admitted_is_let_go():
    async def scenario():
        pool, waiting = Pool(10), AdmissionQueue(1)
        lease = FollowingLease(pool, 0)
        first = await waiting.admit(pool.asks(1))
        task = asyncio.create_task(waiting.admit(lambda: lease))
        await settle()
        first.release()
        waiting.leave(first)  # it is admitted here ...
        assert (waiting.running, waiting.following) == (1, 1)
        task.cancel()  # ... and cancelled before it runs again
        await settle()
        assert task.cancelled()
        assert (waiting.running, waiting.following, waiting.free_slots) == (0, 0, 1)

    run(scenario())
