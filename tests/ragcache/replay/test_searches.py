"""Searches beside each other, of a machine whose times can be worked out by hand."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from ragcache.replay.searches import Documents, SearchesTogether, SearchRequest, ShownList
from ragcache.replay.virtual_time import run_virtual


class Linear:
    """A batch takes a second for each search in hand, those that run counted; half of the way it shows another list."""

    def __init__(self, *, at_once: int, joins: bool) -> None:
        self.at_once = at_once
        self.joins = joins
        self.calls: list[tuple[float, list[int], int]] = []

    def search(self, asked: Sequence[SearchRequest], running: int) -> list[list[ShownList]]:
        now = asyncio.get_running_loop().time()
        self.calls.append((now, [each.number for each in asked], running))
        seconds = float(len(asked) + running)
        return [
            [ShownList(seconds / 2, [-1, *range(each.documents - 1)]), ShownList(seconds, range(each.documents))]
            for each in asked
        ]


DOCUMENTS: Documents = (("a", 10), ("b", 20))


def outsider(which: int) -> tuple[str, int]:
    return (f"outsider {which}", 5)


def searched(
    machine: Linear, arrivals: Sequence[float], *, staged: bool = False, patience: float = 1e9
) -> list[list[tuple[float, list[str]]]]:
    """What each search showed, and when; none if it took longer than `patience`."""

    async def main() -> list[list[tuple[float, list[str]]]]:
        together = SearchesTogether(machine)
        loop = asyncio.get_running_loop()

        async def one(number: int, arrival: float) -> list[tuple[float, list[str]]]:
            await asyncio.sleep(arrival)
            seen = []
            try:
                async with (
                    asyncio.timeout(patience),
                    contextlib.aclosing(together.stages(number, DOCUMENTS, outsider, staged=staged)) as stages,
                ):
                    async for shown in stages:
                        seen.append((loop.time(), [name for name, _ in shown]))
                        if shown is DOCUMENTS:
                            return seen
            except TimeoutError:
                return []
            raise AssertionError("the last list is the request's")

        return await asyncio.gather(*(one(number, arrival) for number, arrival in enumerate(arrivals)))

    return run_virtual(main())


def ends(shown_lists: list[list[tuple[float, list[str]]]]) -> list[float]:
    return [shown[-1][0] if shown else 0.0 for shown in shown_lists]


def test_what_comes_at_one_time_begins_together():
    machine = Linear(at_once=8, joins=False)
    assert ends(searched(machine, [0.0, 0.0, 0.0])) == [3.0, 3.0, 3.0]
    assert machine.calls == [(0.0, [0, 1, 2], 0)]


def test_a_batch_waits_for_the_one_before_and_is_no_larger_than_the_machine_takes():
    machine = Linear(at_once=2, joins=False)
    assert ends(searched(machine, [0.0, 0.5, 0.6, 0.7])) == [1.0, 3.0, 3.0, 4.0]
    assert machine.calls == [(0.0, [0], 0), (1.0, [1, 2], 0), (3.0, [3], 0)]


def test_searches_that_join_begin_at_once_while_there_is_room():
    machine = Linear(at_once=2, joins=True)
    # the third finds two in hand until the first has ended
    assert ends(searched(machine, [0.0, 0.5, 0.6])) == [1.0, 2.5, 3.0]
    assert machine.calls == [(0.0, [0], 0), (0.5, [1], 1), (1.0, [2], 1)]


@pytest.mark.parametrize("joins", [True, False])
def test_what_is_shown_on_the_way_has_others_in_it_and_changes_no_time(joins):
    first = searched(Linear(at_once=2, joins=joins), [0.0, 0.25], staged=True)
    assert first[0] == [(0.5, ["outsider 1", "a"]), (1.0, ["a", "b"])]
    assert ends(first) == ends(searched(Linear(at_once=2, joins=joins), [0.0, 0.25]))


@pytest.mark.parametrize("joins", [True, False])
def test_who_gives_up_leaves_the_place_to_others(joins):
    machine = Linear(at_once=1, joins=joins)
    # the second gives up when it has waited, the first when its search runs; a fourth finds an idle machine
    shown_lists = searched(machine, [0.0, 0.1, 0.45, 5.0], patience=0.5)
    assert shown_lists == [[]] * 4
    assert [(time, numbers) for time, numbers, _ in machine.calls] == [(0.0, [0]), (0.5, [1]), (0.6, [2]), (5.0, [3])]
    patient = searched(Linear(at_once=1, joins=joins), [0.0, 0.1], patience=1.5)
    assert ends(patient) == [1.0, 0.0]
