"""Requests' documents on the generation devices: each is sent once, and what was computed is needed or wasted."""

import random

import numpy as np
import pytest

from pimsim.system.generation.protocol import Piece, Pieces
from pimsim.system.retrieval.confidence import HandedOn
from pimsim.system.run.drafts import Drafts, Kept, ToPrefill
from pimsim.system.run.prefix_tree import PrefixTree
from tests.pimsim.system.run.naive_drafts import NaiveDraft, NaiveTree

TOKENS, IMPORTANT = 100, 15
MOST, VERTICES = 6, 12


def drafts(places=1, tree=None):
    return Drafts(places, MOST, VERTICES, TOKENS, IMPORTANT, tree)


def begun(held, place, documents, there):
    row = np.array([[*documents, *[0] * (MOST - len(documents))]])
    flags = np.array([[i in there for i in range(MOST)]])
    held.begin(np.array([place]), row, np.array([len(documents)]), flags)


def known(held, place, order):
    """As it stands after a look that hands this order on."""
    row = np.array([[*order, *[0] * (MOST - len(order))]])
    nothing = np.zeros((0, 2), np.int64)
    one = np.array([0])
    handed_on = HandedOn(one, row, np.array([len(order)]), one, one, one, one, nothing)
    held.know(np.array([place]), handed_on, 0, 1)


def of(*pieces):
    return Pieces.of(Piece(*piece) for piece in pieces)


def drafted(kept, *orders, documents=4, there=()):
    """Tokens computed and wasted when these orders are prefilled one after the other."""
    held = drafts(tree=PrefixTree(1e9, 85, 15, 100) if kept is Kept.DENSE else None)
    begun(held, 0, range(documents), there)
    held.name(np.array([0]), np.array([9]), [90])
    whole = tuple(range(documents))
    tokens = wasted = 0
    for order in (*orders, whole):
        known(held, 0, order)
        filled = held.prefill([ToPrefill(0, order == whole, kept, 0, False)])
        tokens += filled.pieces.tokens
        wasted += filled.wasted
    return tokens, wasted


@pytest.mark.parametrize("kept", Kept)
def test_a_right_draft_wastes_nothing(kept):
    assert drafted(kept, (0,), (0, 1, 2)) == (400, 0)
    assert drafted(kept) == (400, 0)
    assert drafted(kept, (0, 1), there={2, 3}) == (200, 0)


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
    assert drafted(kept, (0, 2)) == (computed_tokens, wasted)


@pytest.mark.parametrize("kept", Kept)
def test_a_document_that_does_not_stay_is_wasted_whole(kept):
    assert drafted(kept, (0, 1, 9)) == (500, 100)


def test_nothing_is_computed_of_an_order_that_was_corrected_before_its_prefill():
    held = drafts()
    begun(held, 0, [4, 5], ())
    held.name(np.array([0, 0]), np.array([7, 8]), [70, 80])
    known(held, 0, (7, 8))
    known(held, 0, (0, 1))
    assert held.waiting == 2
    filled = held.prefill([ToPrefill(0, True, Kept.NOTHING, 0, False)])
    assert (filled.pieces, filled.wasted, held.waiting) == (of((100, 0), (100, 100)), 0, 0)


def test_a_question_stands_behind_all_documents():
    held = drafts()
    begun(held, 0, [4, 5], {1})
    known(held, 0, (0, 1))
    assert held.prefill([ToPrefill(0, True, Kept.NOTHING, 30, False)]).pieces == of((100, 0), (30, 200))


@pytest.mark.parametrize(
    ("kept", "capacity"),
    [(Kept.NOTHING, None), (Kept.ALL, None), (Kept.DENSE, 0.0), (Kept.DENSE, 600.0), (Kept.DENSE, 1e9)],
)
def test_they_are_plain_drafts_whatever_was_handed_on(kept, capacity):
    """Drafts of four places that share a tree; what is computed is needed or wasted."""
    drawn = random.Random(5)
    tree = None if capacity is None else PrefixTree(capacity, 85, 15, 60)
    plain_tree = None if capacity is None else NaiveTree(capacity, 85, 15)
    held = drafts(4, tree)
    plain = [None] * 4
    total = wasted = loaded = needed = 0
    for _ in range(800):
        place = drawn.randrange(4)
        if plain[place] is None:
            count = drawn.randint(1, MOST)
            documents = drawn.sample(range(60), VERTICES)
            there = {i for i in range(count) if drawn.random() < 0.3}
            plain[place] = NaiveDraft(documents[:count], there, dict(enumerate(documents[count:], count)))
            begun(held, place, documents[:count], there)
            strangers = np.arange(count, VERTICES)
            held.name(np.full(len(strangers), place), strangers, documents[count:])
            needed += (count - len(there)) * TOKENS
        draft = plain[place]
        count = len(draft.documents)
        last = drawn.random() < 0.3
        draft.order = tuple(range(count) if last else sorted(drawn.sample(range(VERTICES), drawn.randint(1, count))))
        known(held, place, draft.order)
        assert held.waits[place] == draft.waiting
        assert held.waiting == sum(one.waiting for one in plain if one is not None)
        if last or drawn.random() < 0.7:
            before = draft.wasted
            pieces, from_tree = draft.prefill(kept, TOKENS, IMPORTANT, plain_tree, last=last)
            filled = held.prefill([ToPrefill(place, last, kept, 0, last)])
            assert filled.pieces == of(*pieces)
            assert filled.loaded == from_tree
            assert filled.wasted == draft.wasted - before
            total, wasted = total + sum(tokens for tokens, _ in pieces), wasted + filled.wasted
            loaded += from_tree
        if last:
            if plain_tree is not None:
                plain_tree.keep(draft.documents)
            assert set(draft.computed) == set(range(count)) - draft.there
            plain[place] = None
    assert wasted > 0
    assert (loaded > 0) is (tree is not None)
    if tree is None:
        of_ended = needed - sum(TOKENS * (len(one.documents) - len(one.there)) for one in plain if one)
        assert total - wasted == of_ended + sum(sum(one.computed.values()) for one in plain if one)
