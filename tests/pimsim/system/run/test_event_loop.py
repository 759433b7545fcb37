"""The event loop's order, ties included, and units that do one job at a time."""

import pytest

from pimsim.errors import WorkloadError
from pimsim.system.run.event_loop import ARRIVE, END, LOOK, TICK, EventLoop, Server


def test_ties_are_broken_by_kind_then_by_who_was_set_first():
    loop, seen = EventLoop(), []
    for time, kind, name in (
        (5, LOOK, "look"),
        (5, TICK, "tick"),
        (5, ARRIVE, "second"),
        (5, ARRIVE, "third"),
        (5, END, "end"),
        (4, LOOK, "earlier"),
    ):
        loop.call_at(time, kind, lambda name=name: seen.append(name))
    loop.run()
    assert seen == ["earlier", "end", "second", "third", "tick", "look"]


def test_what_is_set_for_now_runs_after_what_ends_now():
    loop, seen = EventLoop(), []
    loop.call_at(1, END, lambda: loop.call_at(1, LOOK, lambda: seen.append("look")))
    loop.call_at(1, END, lambda: seen.append("end"))
    loop.run()
    assert seen == ["end", "look"]


def test_the_past_is_refused():
    loop = EventLoop()
    loop.call_at(3, END, lambda: loop.call_at(2, END, lambda: None))
    with pytest.raises(ValueError, match="cannot be set at 3 ps"):
        loop.run()


def test_what_64_bits_of_picoseconds_cannot_tell_is_refused():
    loop = EventLoop()
    loop.call_at((1 << 62) - 1, END, lambda: None)
    with pytest.raises(WorkloadError, match=r"the run takes more than 53 days of simulated time: .*workload\.rate_rps"):
        loop.call_at(1 << 62, END, lambda: None)


def test_a_unit_does_its_jobs_in_turn_and_latency_does_not_keep_it_busy():
    loop, spans, ends = EventLoop(), [], []
    unit = Server(loop, "link", spans)
    unit.do(10, "a", lambda: ends.append(loop.now), later=7)
    unit.do(5, "b", lambda: ends.append(loop.now), later=7)
    loop.run()
    assert ends == [17, 22]
    assert (unit.busy, unit.jobs) == (15, 2)
    assert spans == [("link", "a", 0, 10), ("link", "b", 10, 15)]
