"""Numbers of a query that are out of every range: each is a BadQuery that names its field, and no other error."""

import math
from fractions import Fraction
from typing import Any

import pytest

from ragcache.errors import BadQuery
from ragcache.service.answer import Query
from ragcache.service.limits import Limits
from ragcache.service.request import MAX_TIMEOUT_MS, Request

LIMITS = Limits(top_k=2, max_tokens=16)
HUGE = 10**400  # more than a float holds
ENORMOUS = 10**5000  # more digits than Python writes


@pytest.mark.parametrize("value", [HUGE, -HUGE, ENORMOUS, -ENORMOUS], ids=["huge", "-huge", "enormous", "-enormous"])
@pytest.mark.parametrize("field", ["top_k", "max_tokens", "timeout_ms", "seed", "temperature", "top_p"])
def test_a_number_beyond_any_range_is_refused_in_few_words(field: str, value: int) -> None:
    with pytest.raises(BadQuery, match=f"^{field} is ") as caught:
        Request.of(Query("Why?", **{field: value}), LIMITS, 9)
    assert caught.value.field == field
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, Fraction(HUGE, 3), Fraction(-ENORMOUS, 3)])
@pytest.mark.parametrize("field", ["temperature", "top_p"])
def test_a_real_number_beyond_any_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(BadQuery, match=f"^{field} is "):
        Request.of(Query("Why?", **{field: value}), LIMITS, 9)


def test_the_longest_time_is_the_limit() -> None:
    longest = Request.of(Query("Why?", timeout_ms=MAX_TIMEOUT_MS), LIMITS, 9)
    assert longest.seconds == MAX_TIMEOUT_MS / 1000
    with pytest.raises(BadQuery, match=f"it may be 1 to {MAX_TIMEOUT_MS}") as caught:
        Request.of(Query("Why?", timeout_ms=MAX_TIMEOUT_MS + 1), LIMITS, 9)
    assert caught.value.limit == MAX_TIMEOUT_MS


def test_real_numbers_become_floats() -> None:
    sampling = Request.of(Query("Why?", temperature=Fraction(1, 2), top_p=1), LIMITS, 9).sampling  # type: ignore[arg-type]
    assert [type(value) for value in (sampling.temperature, sampling.top_p)] == [float, float]
