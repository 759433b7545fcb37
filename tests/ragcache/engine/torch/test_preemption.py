"""Which job gives way when a step runs out of memory."""

import pytest

from ragcache.engine.torch.preemption import chosen_to_give_way


@pytest.mark.parametrize(
    ("running", "stepped", "gives_way"),
    [
        ("abc", "abc", "c"),
        ("abc", "ab", "b"),  # c was not in the step: ending it would not make the next step smaller
        ("abc", "a", "c"),  # the step cannot get smaller, so the youngest gives its KV
        ("a", "a", None),
        ("ab", "b", "b"),
    ],
)
def test_the_youngest_of_the_step_gives_way(running, stepped, gives_way):
    assert chosen_to_give_way(list(running), list(stepped)) == gives_way
