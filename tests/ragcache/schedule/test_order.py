"""Whose turn it is: cached requests go first, none is overtaken for ever, and a turn is cheap."""

import random
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcache.cache.cache import KnowledgeCache
from ragcache.policy import LRU
from ragcache.schedule.order import Order, Waiting
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree
from tests.props.budget import examples

DOCUMENTS = [Segment.of(f"d{number}", [number + 1] * (2 + number % 5)) for number in range(8)]
A, B = (Segment.of(name, [token] * 10) for name, token in (("a", 101), ("b", 102)))


def replayed(names: Sequence[Segment], window: int, room: int) -> tuple[int, list[str]]:
    """Requests that all wait, one after the other over a cache with room for one: how many hit, and in which order."""
    cache = KnowledgeCache(room, 1, LRU())
    order = Order(cache.tree, window)
    for segment in names:
        order.add(Waiting([segment], "default"))
    hits, served = 0, []
    while (request := order.next()) is not None:
        order.take(request)
        with cache.lease(request.path, 0) as lease:
            lease.commit([object()] * len(lease.missing))
            hits += lease.cached
        served.append(request.path[0].label)
    return hits, served


def test_the_papers_example():
    """Two documents, room for one, six alternating requests: no hit in order, four of six reordered."""
    assert replayed([A, B] * 3, window=0, room=10) == (0, list("ababab"))
    assert replayed([A, B] * 3, window=32, room=10) == (4, list("aaabbb"))


def test_a_window_of_one_lets_one_pass():
    assert replayed([A, B] * 3, window=1, room=10)[1] == list("aabbba")


def naive_turn(tree: KnowledgeTree, waiting: list[Waiting], passed: dict[int, int], window: int) -> Waiting:
    for request in waiting:
        if passed[request.arrival] >= window:
            return request

    def priority(request: Waiting) -> tuple[float, int]:
        cached = sum(node.size for node in tree.match(tree.root(request.namespace), request.path))
        computed = request.tokens - cached
        return (-cached / computed if computed else float("-inf")), request.arrival

    return min(waiting, key=priority)


@given(
    window=st.integers(0, 6),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["arrive", "arrive", "take", "take", "withdraw", "evict", "serve"]),
            st.lists(st.sampled_from(DOCUMENTS), max_size=3),
            st.integers(0, 1000),
        ),
        max_size=60,
    ),
)
@settings(max_examples=examples(300), deadline=None)
def test_the_turn_is_that_of_a_naive_search_and_none_is_overtaken_too_often(window, steps):
    cache = KnowledgeCache(60, 1, LRU())
    order = Order(cache.tree, window)
    waiting: list[Waiting] = []
    passed: dict[int, int] = {}
    for what, path, number in steps:
        if what == "arrive":
            request = Waiting(path, "red" if number % 3 == 0 else "default")
            order.add(request)
            waiting.append(request)
            passed[request.arrival] = 0
        elif what in ("take", "withdraw") and waiting:
            if what == "take":
                request = order.next()
                assert request is naive_turn(cache.tree, waiting, passed, window)
                order.take(request)
                for other in waiting:
                    if other.arrival < request.arrival:
                        passed[other.arrival] += 1
                        assert passed[other.arrival] <= window
            else:
                request = waiting[number % len(waiting)]
                order.withdraw(request)
                order.withdraw(request)
            waiting.remove(request)
        elif what == "evict":
            cache.drop_unheld()
        elif what == "serve":
            with cache.lease(path, 0) as lease:
                lease.commit([object()] * len(lease.missing))
        assert len(order) == len(waiting)
    while waiting:
        request = order.next()
        assert request is naive_turn(cache.tree, waiting, passed, window)
        order.take(request)
        for other in waiting:
            passed[other.arrival] += other.arrival < request.arrival
        waiting.remove(request)
    assert order.next() is None
    assert not order._by_key


@pytest.mark.parametrize("window", [1, 5, 32])
def test_under_adversarial_arrivals_the_one_that_shares_nothing_waits_no_longer_than_the_window(window):
    cache = KnowledgeCache(100, 1, LRU())
    order = Order(cache.tree, window)
    with cache.lease([A], 0) as lease:
        lease.commit([object()])
    lonely = Waiting([B], "default")
    order.add(lonely)
    turn = 0
    while True:
        order.add(Waiting([A], "default"))  # each fully cached, and so ahead of it
        request = order.next()
        order.take(request)
        if request is lonely:
            break
        turn += 1
    assert turn == window


def seconds_a_turn(count: int) -> float:
    chance = random.Random(count)
    documents = [Segment.of(f"n{number}", [number + 1] * 20) for number in range(300)]
    cache = KnowledgeCache(20 * 400, 1, LRU())
    order = Order(cache.tree, 32)

    def arrive() -> None:
        order.add(Waiting([documents[int(300 * chance.random() ** 2)] for _ in range(2)], "default"))

    for _ in range(count):
        arrive()
    begin = time.perf_counter()
    for _ in range(1000):
        request = order.next()
        order.take(request)
        with cache.lease(request.path, 0) as lease:
            lease.commit([object()] * len(lease.missing))
        arrive()
    return (time.perf_counter() - begin) / 1000


@pytest.mark.timing
def test_a_turn_takes_less_than_a_millisecond_with_a_thousand_waiting():
    thousand, many = seconds_a_turn(1_000), seconds_a_turn(8_000)
    assert thousand < 1e-3
    assert many < 20 * thousand  # n log n would be ten times
