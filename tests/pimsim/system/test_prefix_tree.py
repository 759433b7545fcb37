"""The prefix tree: paths, dense parts, and what goes first."""

from hypothesis import given
from hypothesis import strategies as st

from pimsim.system.prefix_tree import BOTH, DENSE, NEITHER, PrefixTree


def test_the_papers_example():
    tree = PrefixTree(capacity=1e9, dense=100, sparse=15)
    for sequence in ((2, 3, 5), (2, 4, 5)):
        tree.keep(sequence)
    assert tree.find((2, 4, 6)) == [BOTH, BOTH, NEITHER]
    assert tree.find((2, 4, 3)) == [BOTH, BOTH, DENSE]
    tree.keep((2, 4, 3))
    assert tree.find((2, 4, 3)) == [BOTH] * 3
    # 2, 3, 4, 5 dense; 2, 2-3, 2-3-5, 2-4, 2-4-5, 2-4-3 sparse
    assert tree.used == 4 * 100 + 6 * 15


def test_behind_a_broken_path_nothing_is_found_whole():
    tree = PrefixTree(capacity=1e9, dense=1, sparse=1)
    tree.keep((1, 2))
    assert tree.find((2, 1)) == [DENSE, DENSE]


def test_the_entry_used_longest_ago_goes_first_and_its_document_with_the_last():
    tree = PrefixTree(capacity=230, dense=100, sparse=15)
    tree.keep((1,))
    tree.keep((2,))
    tree.keep((1,))  # used again
    tree.keep((3,))
    assert tree.find((1,)) == [BOTH]
    assert tree.find((2,)) == [NEITHER]
    assert tree.evicted == 1


def test_a_path_ends_before_it_breaks():
    tree = PrefixTree(capacity=245, dense=100, sparse=15)  # room for two documents, and an entry
    tree.keep((1, 2))
    tree.keep((3,))
    assert tree.find((1, 2)) == [BOTH, NEITHER]


@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=4, unique=True), max_size=60), st.integers(0, 900))
def test_bytes_are_those_of_what_is_held(sequences, capacity):
    tree = PrefixTree(capacity, dense=100, sparse=15)
    for sequence in sequences:
        tree.keep(sequence)
        tree.check()
        assert tree.used <= capacity
