"""The prefix tree: paths, dense parts, and what goes first."""

from hypothesis import given
from hypothesis import strategies as st

from pimsim.system.run.prefix_tree import BOTH, DENSE, NEITHER, NONE, PrefixTree
from tests.pimsim.system.run.naive_drafts import NaiveTree


def tree_of(capacity, dense=100, sparse=15):
    return PrefixTree(capacity, dense, sparse, documents=10)


def test_the_papers_example():
    tree = tree_of(1e9)
    for sequence in ((2, 3, 5), (2, 4, 5)):
        tree.keep(sequence)
    assert tree.find((2, 4, 6)) == [BOTH, BOTH, NEITHER]
    assert tree.find((2, 4, 3)) == [BOTH, BOTH, DENSE]
    tree.keep((2, 4, 3))
    assert tree.find((2, 4, 3)) == [BOTH] * 3
    # 2, 3, 4, 5 dense; 2, 2-3, 2-3-5, 2-4, 2-4-5, 2-4-3 sparse
    assert tree.used == 4 * 100 + 6 * 15


def test_behind_a_broken_path_nothing_is_found_whole():
    tree = tree_of(1e9, dense=1, sparse=1)
    tree.keep((1, 2))
    assert tree.find((2, 1)) == [DENSE, DENSE]


def test_the_entry_used_longest_ago_goes_first_and_its_document_with_the_last():
    tree = tree_of(230)
    tree.keep((1,))
    tree.keep((2,))
    tree.keep((1,))  # used again
    tree.keep((3,))
    assert tree.find((1,)) == [BOTH]
    assert tree.find((2,)) == [NEITHER]
    assert tree.evicted == 1


def test_a_path_ends_before_it_breaks():
    tree = tree_of(245)  # room for two documents, and an entry
    tree.keep((1, 2))
    tree.keep((3,))
    assert tree.find((1, 2)) == [BOTH, NEITHER]


SEQUENCES = st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=5, unique=True), max_size=80)


@given(SEQUENCES, st.integers(0, 2500))
def test_it_is_a_plain_tree_of_paths(sequences, capacity):
    tree, plain = tree_of(capacity), NaiveTree(capacity, dense=100, sparse=15)
    for sequence in sequences:
        assert tree.find(sequence) == plain.find(sequence)
        tree.keep(sequence)
        plain.keep(sequence)
        assert tree.used == plain.used <= capacity
        assert tree.evicted == plain.evicted
    assert paths(tree) == list(plain.paths)


def paths(tree):
    """The path of each entry, used longest ago first."""
    entries = {entry: (before, document) for entry, before, document in tree.entries()}

    def path(entry):
        before, document = entries[entry]
        return (document,) if before == NONE else (*path(before), document)

    return [path(entry) for entry in entries]


def test_hundreds_of_entries_are_found_while_others_come_and_go():
    tree, plain = PrefixTree(900, 1, 1, documents=5000), NaiveTree(900, dense=1, sparse=1)
    sequences = [[i % 7, i * 7919 % 5000, i * i % 4999] for i in range(1500)]
    for i, sequence in enumerate(sequences):
        assert tree.find(sequence) == plain.find(sequence)
        tree.keep(sequence)
        plain.keep(sequence)
        earlier = sequences[i * 31 % (i + 1)]
        assert tree.find(earlier) == plain.find(earlier)
    assert tree.evicted == plain.evicted > 1000
    assert paths(tree) == list(plain.paths)
