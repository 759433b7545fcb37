"""The tree finds exactly what was put in, by tokens and not by digest alone."""

import weakref

import pytest

from ragcache.tree.segment import Segment
from ragcache.tree.tree import DEVICE, KnowledgeTree, Place


def segment(*tokens: int) -> Segment:
    return Segment.of(str(tokens), tokens)


S, A, B = segment(1, 2), segment(3), segment(4, 5, 6)


def collision(of: Segment, *tokens: int) -> Segment:
    """Other tokens under the same digest, which blake2b would take ages to give."""
    return Segment("collision", segment(*tokens).tokens, of.key)


def test_a_prefix_is_found_and_not_more():
    tree = KnowledgeTree()
    root = tree.root("default")
    system = tree.insert(root, S)
    first = tree.insert(system, A)
    assert tree.match(root, [S, A, B]) == [system, first]
    assert tree.match(root, [S, B, A]) == [system]
    assert tree.match(root, [A]) == []
    assert tree.match(root, []) == []
    assert len(tree) == 2


def test_order_of_documents_is_part_of_the_path():
    tree = KnowledgeTree()
    root = tree.root("default")
    ab = tree.insert(tree.insert(root, A), B)
    ba = tree.insert(tree.insert(root, B), A)
    assert tree.match(root, [A, B])[-1] is ab
    assert tree.match(root, [B, A])[-1] is ba


def test_namespaces_share_nothing():
    tree = KnowledgeTree()
    tree.insert(tree.root("one"), S)
    assert tree.match(tree.root("two"), [S]) == []
    assert tree.root("one") is tree.root("one")


def test_a_root_is_the_same_while_it_is_referred_to_and_is_kept_for_its_nodes_alone():
    tree = KnowledgeTree()
    root = tree.root("default")
    assert tree.root("default") is root
    tree.remove(tree.insert(root, S))
    assert tree.root("default") is root
    key, gone = root.path_key, weakref.ref(root)
    del root
    assert gone() is None
    node = tree.insert(tree.root("default"), S)
    assert node.parent is tree.root("default")
    assert node.parent.path_key == key
    assert list(tree.nodes()) == [node]
    tree.remove(node)
    assert list(tree.nodes()) == []


def test_a_digest_collision_is_a_miss():
    tree = KnowledgeTree()
    root = tree.root("default")
    tree.insert(root, A)
    assert tree.match(root, [collision(A, 9)]) == []


def test_equal_tokens_have_equal_keys_and_others_do_not():
    assert segment(1, 2).key == segment(1, 2).key
    # the digest must see where a token ends: 0x0102 is not 1, 2
    assert len({segment(1, 2).key, segment(2, 1).key, segment(12).key, segment(1).key, segment(1, 2, 0).key}) == 5


def test_a_segment_without_tokens_is_refused():
    with pytest.raises(ValueError, match="no tokens"):
        segment()


def test_a_taken_key_is_refused():
    tree = KnowledgeTree()
    root = tree.root("default")
    tree.insert(root, A)
    with pytest.raises(ValueError, match="has a child"):
        tree.insert(root, A)
    assert len(tree) == 1


def test_only_free_leaves_can_be_removed():
    tree = KnowledgeTree()
    root = tree.root("default")
    parent = tree.insert(root, S)
    leaf = tree.insert(parent, A)
    leaf.places[DEVICE] = Place()
    for node in (root, parent, leaf):
        with pytest.raises(ValueError, match="root, has children or has KV"):
            tree.remove(node)
    leaf.places[DEVICE] = None
    tree.remove(leaf)
    tree.remove(parent)
    assert len(tree) == 0
    assert tree.match(root, [S]) == []


def test_nodes_come_parents_first():
    tree = KnowledgeTree()
    for name in ("one", "two"):
        system = tree.insert(tree.root(name), S)
        tree.insert(tree.insert(system, A), B)
        tree.insert(system, B)
    seen = set()
    for node in tree.nodes():
        assert node.parent is not None
        assert node.parent.is_root or node.parent.id in seen
        seen.add(node.id)
    assert len(seen) == len(tree) == 8
