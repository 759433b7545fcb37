"""A request's documents on the generation devices: each is sent once, and what was computed is needed or wasted."""

import random

import pytest

from pimsim.system.draft import Draft, Kept

TOKENS, IMPORTANT = 100, 15


def computed(draft, kept, *, last=False):
    """Bring it up to what is known, as a batch does; the tokens that were computed."""
    total = 0
    for at in draft.missing(kept, IMPORTANT, last=last):
        tokens = IMPORTANT if draft.has_dense(at) else TOKENS
        draft.compute(at, tokens)
        total += tokens
    return total


def drafted(kept, *orders, documents=4, there=()):
    """Tokens computed and wasted, and documents sent, when these orders are prefilled one after the other."""
    draft = Draft(list(range(documents)), there, {9: 90})
    tokens = sent = 0
    for order in (*orders, draft.whole):
        sent += draft.send(order)
        draft.know(order)
        tokens += computed(draft, kept, last=order == draft.whole)
    return tokens, draft.wasted, sent


@pytest.mark.parametrize("kept", Kept)
def test_a_right_draft_wastes_nothing(kept):
    assert drafted(kept, (0,), (0, 1, 2)) == (400, 0, 4)
    assert drafted(kept) == (400, 0, 4)
    assert drafted(kept, (0, 1), there={2, 3}) == (200, 0, 2)


@pytest.mark.parametrize(
    ("kept", "computed_tokens", "wasted"),
    [
        # 0, 2 first, then 1 between them: 2 was computed behind 0 alone
        (Kept.NOTHING, 500, 100),
        (Kept.DENSE, 415, 15),
        (Kept.ALL, 400, 0),
    ],
)
def test_a_document_that_is_pushed_back_keeps_what_the_rule_says(kept, computed_tokens, wasted):
    assert drafted(kept, (0, 2)) == (computed_tokens, wasted, 4)


@pytest.mark.parametrize("kept", Kept)
def test_a_document_that_does_not_stay_is_wasted_whole(kept):
    assert drafted(kept, (0, 1, 9)) == (500, 100, 5)


def test_nothing_is_computed_of_an_order_that_was_corrected_before_its_prefill():
    draft = Draft([4, 5])
    draft.know((7, 8))
    draft.know((0, 1))
    assert computed(draft, Kept.NOTHING, last=True) == 200
    assert draft.wasted == 0


@pytest.mark.parametrize("kept", Kept)
def test_what_is_computed_is_needed_or_wasted_whatever_was_handed_on(kept):
    drawn = random.Random(5)
    wasted = 0
    for _ in range(300):
        count = drawn.randint(1, 6)
        there = set(drawn.sample(range(count), drawn.randint(0, count)))
        draft = Draft([100 + at for at in range(count)], there, {at: at for at in range(count, 12)})
        tokens = sent = 0
        orders = [tuple(sorted(drawn.sample(range(12), drawn.randint(1, count)))) for _ in range(drawn.randint(0, 5))]
        for order in orders:
            sent += draft.send(order)
            draft.know(order)
            assert len(draft.sequence) == len(order)
            if drawn.random() < 0.7:
                tokens += computed(draft, kept)
                assert draft.waiting == 0
        sent += draft.send(draft.whole)
        draft.know(draft.whole)
        tokens += computed(draft, kept, last=True)
        assert draft.missing(kept, IMPORTANT, last=True) == []
        assert tokens == (count - len(there)) * TOKENS + draft.wasted == sum(draft.computed.values()) + draft.wasted
        assert sent == count - len(there) + draft.sent_in_vain
        assert set(draft.computed) == set(range(count)) - there
        assert draft.sequence == draft.documents
        wasted += draft.wasted
    assert wasted > 0
