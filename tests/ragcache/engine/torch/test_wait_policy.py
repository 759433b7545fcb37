"""The wait policy against a slow twin that looks at the whole history, and its hysteresis."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcache.engine.torch.wait_policy import BUSY, CALM, QUIET, WaitPolicy
from tests.props.budget import examples

OBSERVATION = st.tuples(st.sampled_from([0.05, 0.125, 0.5, 30.0]), st.sampled_from([0.0, QUIET, 0.2, BUSY, 1.0, 6.0]))


def naive_spinning(history: list[tuple[float, float]]) -> bool:
    """Whether the machine has been calm since it was last busy, if it ever was."""
    busy = [n for n, (_, others) in enumerate(history) if others >= BUSY]
    if not busy:
        return True
    calm = 0.0
    for seconds, others in history[busy[-1] + 1 :]:
        calm = calm + seconds if others <= QUIET else 0.0
        if calm >= CALM:
            return True
    return False


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(OBSERVATION, max_size=30))
def test_it_decides_as_the_whole_history_does(history):
    policy = WaitPolicy()
    assert policy.spinning
    for n, (seconds, others) in enumerate(history):
        assert policy.observe(seconds, others) == naive_spinning(history[: n + 1]) == policy.spinning


def test_one_busy_tenth_of_a_second_is_enough_to_sleep():
    assert not WaitPolicy().observe(0.1, 1.0)


def test_spinning_comes_back_after_a_calm_and_a_pause_between_bursts_is_none():
    policy = WaitPolicy()
    for _ in range(5):
        assert not policy.observe(0.1, 1.0)
        assert not policy.observe(0.3, 0.0)
    assert policy.observe(0.2, 0.0)


@pytest.mark.parametrize("spinning", [True, False])
def test_between_quiet_and_busy_all_stays_as_it_is(spinning):
    policy = WaitPolicy(spinning)
    for _ in range(100):
        assert policy.observe(0.1, (QUIET + BUSY) / 2) is spinning
