"""A step is told of when it completes a piece of the plan, and once when it completes the prompt."""

import pytest

from ragcache.engine.progress import Progress
from ragcache.engine.protocol import Prefilled, Progressed
from ragcache.reuse.plan import Computed


@pytest.mark.parametrize(
    ("pieces", "question", "steps", "events"),
    [
        ([3, 4], 2, [2, 1, 3, 1, 1, 1], [None, Progressed(3), None, Progressed(7), None, Prefilled(9)]),
        ([3, 4], 2, [8, 1], [Progressed(8), Prefilled(9)]),  # two at once are told of once
        ([3, 4], 2, [9], [Prefilled(9)]),
        ([], 2, [1, 1], [None, Prefilled(2)]),
        ([3], 1, [3, 1], [Progressed(3), Prefilled(4)]),
    ],
)
def test_whole_pieces_and_the_whole_prompt_are_told_of_once(pieces, question, steps, events):
    progress = Progress.of([Computed(range(size)) for size in pieces], question)
    assert (progress.pending, progress.computed_tokens) == (sum(pieces) + question, 0)
    assert [progress.advance(step) for step in steps] == events
    assert (progress.pending, progress.computed_tokens) == (0, progress.prompt_tokens)
