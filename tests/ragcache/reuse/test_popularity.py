"""Counts fade, are bounded, and are each tenant's own."""

import pytest

from ragcache.reuse.popularity import Popularity


def test_what_is_asked_for_more_often_counts_more():
    popularity = Popularity()
    for keys in ([b"a", b"b"], [b"a"], [b"c"]):
        popularity.count("x", keys)
    assert popularity.of("x", b"a") > popularity.of("x", b"c") > popularity.of("x", b"b") > 0
    assert popularity.of("x", b"unknown") == popularity.of("y", b"a") == 0


def test_a_count_halves_within_its_half_life():
    popularity = Popularity(half_life=10)
    popularity.count("x", [b"a"])
    for _ in range(10):
        popularity.count("x", [b"b"])
    assert popularity.of("x", b"a") == pytest.approx(0.5)
    popularity.count("x", [b"a"])
    assert popularity.of("x", b"a") == pytest.approx(1 + 0.5 ** (11 / 10))


def test_of_more_than_it_may_know_it_forgets_the_oldest():
    popularity = Popularity(most=3)
    for key in (b"a", b"b", b"c", b"a", b"d"):
        popularity.count("x", [key])
    assert len(popularity) == 3
    assert popularity.of("x", b"b") == 0
    assert popularity.of("x", b"a") > 1
