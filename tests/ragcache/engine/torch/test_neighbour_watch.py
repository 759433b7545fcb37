"""The watch looks only while its process computes, follows what others take, and survives what it cannot read."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ragcache.engine.torch import neighbour_watch
from ragcache.engine.torch.neighbour_watch import NeighbourWatch
from tests.props.torch_runs import PATIENCE, Run, job, prompt


class ScriptedUse:
    """Others take what a test says; an OSError is raised."""

    def __init__(self) -> None:
        self.others: float | OSError = 0.0
        self.times: list[float] = []
        self.cores = 2.0
        self.window = 0.002

    @property
    def looks(self) -> int:
        return len(self.times)

    def since_last(self) -> tuple[float, float]:
        self.times.append(time.monotonic())
        if isinstance(self.others, OSError):
            raise self.others
        return 0.2, self.others


@pytest.fixture
def use(monkeypatch) -> ScriptedUse:
    scripted = ScriptedUse()
    monkeypatch.setattr(neighbour_watch, "other_uses", lambda: [scripted])
    return scripted


@pytest.fixture
def watches() -> Iterator[Callable[[int], NeighbourWatch]]:
    made: list[NeighbourWatch] = []

    def make(threads: int) -> NeighbourWatch:
        made.append(NeighbourWatch(threads))
        return made[-1]

    yield make
    for watch in made:
        watch.close()
        assert watch.spinning
    assert not [thread for thread in threading.enumerate() if thread.name in ("neighbour-watch", "openmp-idle")]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_threads_sleep_beside_others_and_spin_again_when_these_have_gone(use, watches):
    watch = watches(2)
    watch.resume()
    until(lambda: use.looks > 5)
    assert watch.spinning
    use.others = 1.0
    until(lambda: not watch.spinning)
    use.others = 0.0
    until(lambda: watch.spinning)


def test_a_block_is_watched_from_beginning_to_end(use):
    use.others = 1.0
    with NeighbourWatch(2) as watch:
        until(lambda: not watch.spinning)
    assert watch.spinning
    looks = use.looks
    time.sleep(0.05)
    assert use.looks == looks


def test_what_others_took_is_looked_at_before_anything_is_computed(use, watches):
    watch = watches(2)
    watch.resume()
    until(lambda: use.looks > 5)
    watch.pause()
    time.sleep(0.05)
    looks, use.others = use.looks, 1.0
    time.sleep(0.1)
    assert use.looks == looks  # seldom, while nothing is computed
    watch.resume()
    assert not watch.spinning
    watch.pause()
    use.others = 0.0
    time.sleep(0.05)
    assert not watch.spinning


def test_a_long_pause_is_looked_at_piece_by_piece(use, watches, monkeypatch):
    """The mean over a long pause would not show who came near its end."""
    monkeypatch.setattr(neighbour_watch, "PAUSED_WINDOW", 0.05)
    watch = watches(2)
    until(lambda: use.looks >= 3)
    assert min(after - before for before, after in itertools.pairwise(use.times)) >= 0.05
    use.others = 1.0
    until(lambda: not watch.spinning)


def test_looks_are_a_window_apart_however_long_a_step_is(use, watches):
    """A counter of ticks is good over a window, not over less. As vLLM's do, steps keep Python's lock."""
    use.window = 0.04
    watch = watches(2)
    begin = time.monotonic()
    sum(range(1_000_000))
    second = 1_000_000 / (time.monotonic() - begin)
    ended = time.monotonic() + 1.0
    for seconds in itertools.cycle((0.005, 0.013, 0.045, 0.055, 0.025)):
        if time.monotonic() > ended:
            break
        watch.resume()
        sum(range(int(seconds * second)))
        watch.pause()
        time.sleep(0.001)
    apart = sorted(after - before for before, after in itertools.pairwise(use.times))
    assert len(apart) > 5
    assert apart[0] >= 0.04
    assert apart[len(apart) // 2] < 0.04 + 0.055


def test_others_may_have_the_cores_that_are_left_over(use, watches):
    use.cores, use.others = 8, 4.1
    watch = watches(4)
    watch.resume()
    until(lambda: use.looks > 20)
    assert watch.spinning
    use.others = 4.5
    until(lambda: not watch.spinning)


def test_others_may_not_have_the_quota_that_threads_need_whatever_cores_are_idle(use, watches, monkeypatch):
    quota = ScriptedUse()
    use.cores, use.others, quota.cores = 64, 1.0, 2.0
    monkeypatch.setattr(neighbour_watch, "other_uses", lambda: [use, quota])
    watch = watches(2)
    watch.resume()
    until(lambda: quota.looks > 5)
    assert watch.spinning
    quota.others = 1.0  # a busy process of the same container
    until(lambda: not watch.spinning)
    quota.others = 0.0
    until(lambda: watch.spinning)
    use.others = 63.0  # and one beside it: other containers have all CPUs
    until(lambda: not watch.spinning)


def test_a_short_pause_is_too_short_to_look_at_what_others_took(use, watches):
    use.window = 0.5
    watch = watches(2)
    for _ in range(20):
        watch.resume()
        time.sleep(0.005)
        watch.pause()
        time.sleep(0.005)
    assert use.looks <= 1


def test_a_look_that_another_thread_took_meanwhile_is_not_taken_again(use, watches):
    use.window = 60.0
    watch = watches(2)
    watch._looked -= 60.0
    watch.resume()
    assert use.looks == 1
    watch._look()  # as its own thread would, if it had waited for Python's lock since its time came
    assert use.looks == 1


def test_one_thread_has_none_to_wait_for(use, watches):
    watch = watches(1)
    watch.resume()
    time.sleep(0.05)
    assert use.looks == 0


def test_what_cannot_be_read_any_more_leaves_the_default(use, watches, caplog):
    watch = watches(2)
    use.others = 1.0
    watch.resume()
    until(lambda: not watch.spinning)
    use.others = OSError("/proc is gone")
    until(lambda: watch.spinning)
    assert "watched no more: /proc is gone" in caplog.text
    looks = use.looks
    watch.pause()
    watch.resume()
    time.sleep(0.05)
    assert use.looks == looks


@pytest.mark.parametrize("gone", [0, 1])
def test_what_can_still_be_read_is_watched_on(use, watches, monkeypatch, caplog, gone):
    """A process that is moved to another group loses the counter of its old one, and not that of its CPUs."""
    uses = [use, ScriptedUse()]
    monkeypatch.setattr(neighbour_watch, "other_uses", lambda: uses)
    watch, left = watches(2), uses[1 - gone]
    watch.resume()
    uses[gone].others = OSError("it has gone")
    until(lambda: "watched no more: it has gone" in caplog.text)
    left.others = 1.0
    until(lambda: not watch.spinning)
    left.others = 0.0
    until(lambda: watch.spinning)
    looks = left.looks
    until(lambda: left.looks > looks + 3)
    assert caplog.text.count("it has gone") == 1


def test_a_system_that_does_not_say_what_others_take_is_not_watched(monkeypatch, watches):
    monkeypatch.setattr(neighbour_watch, "other_uses", list)
    watches(2).resume()


def test_the_engine_computes_the_same_beside_others_and_looks_only_while_it_computes(use, engines, generate):
    engine = engines(threads=2)
    use.others = 1.0
    assert Run(engine, job(engine, prompt(30, 1), 12)).wait().tokens == generate(prompt(30, 1), 12)
    until(lambda: not engine._watch.spinning)
    until(lambda: not engine._watch._computing.is_set())
    time.sleep(0.05)
    looks = use.looks
    time.sleep(0.1)
    assert use.looks == looks
    assert Run(engine, job(engine, prompt(30, 1), 12)).wait().tokens == generate(prompt(30, 1), 12)
    assert use.looks > looks
