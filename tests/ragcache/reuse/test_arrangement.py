"""The order of documents is one with the longest cached beginning, whatever is cached; what may not move stays."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcache.reuse.arrangement import MOST_TRIED, Group, arrange
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree
from tests.props.budget import examples

DOCUMENTS = [Segment.of(f"d{n}", range(100 * n, 100 * n + n + 1)) for n in range(6)]


def tree_of(*paths):
    tree = KnowledgeTree()
    for path in paths:
        node = tree.root("default")
        for segment in path:
            node = node.children.get(segment.key) or tree.insert(node, segment)
    return tree


def held_in(tree, groups):
    def held(order):
        path = [segment for number in order for segment in groups[number].segments]
        found = tree.match(tree.root("default"), path)
        return sum(node.size for node in found), len(found) == len(path)

    return held


def arranged(tree, groups, popularity=None):
    liked = popularity or {}
    return arrange(groups, held_in(tree, groups), lambda segment: liked.get(segment.label, 0.0))


def singles(*numbers, fixed=()):
    return [Group((DOCUMENTS[number],), number not in fixed) for number in numbers]


def test_the_longest_cached_beginning_comes_first_and_the_rest_as_it_was():
    a, b, c, d = DOCUMENTS[:4]
    tree = tree_of([c, b], [d])
    assert arranged(tree, singles(0, 1, 2, 3)) == (2, 1, 0, 3)
    assert arranged(tree_of([d], [b, c, a]), singles(0, 1, 2, 3)) == (1, 2, 0, 3)
    assert arranged(tree_of(), singles(0, 1, 2)) == (0, 1, 2)
    assert arranged(tree_of([a, b]), singles()) == ()


def test_tokens_count_and_not_documents():
    a, b, _, _, _, f = DOCUMENTS
    assert arranged(tree_of([a, b], [f]), singles(0, 1, 5)) == (2, 0, 1)


def test_popular_documents_come_first_behind_what_is_cached_and_among_equals():
    b, c, d = DOCUMENTS[1:4]
    liked = {"d3": 9.0}
    assert arranged(tree_of([b]), singles(0, 1, 2, 3), liked) == (1, 3, 0, 2)
    assert arranged(tree_of([b]), singles(0, 1, 2, 3), liked | {"d0": 0.5}) == (1, 0, 3, 2)
    assert arranged(tree_of([b]), singles(0, 1, 2, 3), {"d3": 0.9}) == (1, 0, 2, 3)  # asked for not twice as often
    one, other = Segment.of("one", [1, 2]), Segment.of("other", [3, 4])
    groups = [Group((one,)), Group((other,)), Group((d,))]
    tree = tree_of([one], [other])
    assert arranged(tree, groups) == (0, 1, 2)
    assert arranged(tree, groups, {"other": 2.0}) == (1, 0, 2)
    assert len(c) > len(b)


def test_what_may_not_move_stays_in_its_place():
    a, b, c, d = DOCUMENTS[:4]
    groups = singles(0, 1, 2, 3, fixed=[1])
    assert arranged(tree_of([b, a, c, d]), groups) == (0, 1, 2, 3)
    assert arranged(tree_of([d, b, c], [c, a]), groups) == (3, 1, 2, 0)
    everywhere = singles(0, 1, 2, 3, fixed=[0, 1, 2, 3])
    assert arranged(tree_of([d, c, b, a]), everywhere, {"d3": 99.0}) == (0, 1, 2, 3)


def test_documents_of_a_group_stay_together_and_may_be_cached_in_part():
    a, b, c, d = DOCUMENTS[:4]
    groups = [Group((a,)), Group((b, c)), Group((d,))]
    assert arranged(tree_of([b, c, d]), groups) == (1, 2, 0)
    assert arranged(tree_of([b]), groups) == (1, 0, 2)


@st.composite
def situations(draw: st.DrawFn):
    """Documents of a request, some of which may not move, and what a cache holds of them in whatever orders."""
    numbers = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True))
    fixed = draw(st.sets(st.sampled_from(numbers), max_size=2))
    paths = draw(st.lists(st.permutations(range(6)).map(lambda order: order[:4]), max_size=12))
    return singles(*numbers, fixed=fixed), tree_of(*[[DOCUMENTS[n] for n in path] for path in paths])


@settings(max_examples=examples(200), deadline=None)
@given(situations())
def test_no_order_has_a_longer_cached_beginning(situation):
    groups, tree = situation
    held = held_in(tree, groups)
    chosen = arranged(tree, groups)
    assert sorted(chosen) == list(range(len(groups)))
    allowed = [
        order
        for order in permutations(range(len(groups)))
        if all(groups[number].movable or order[number] == number for number in range(len(groups)))
    ]
    assert chosen in allowed
    assert held(chosen)[0] == max(held(order)[0] for order in allowed)


@pytest.mark.parametrize("count", [20, 200])
def test_a_cache_of_very_many_orders_takes_bounded_work(count):
    groups = [Group((Segment.of(str(n), [n]),)) for n in range(count)]
    tried = 0

    def held(order):
        nonlocal tried
        tried += 1
        return min(len(order), 9), len(order) < 10

    assert sorted(arrange(groups, held, lambda _: 0.0)) == list(range(count))
    assert tried < MOST_TRIED + count
