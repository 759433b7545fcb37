"""LRU evicts what naive implementations evict; a price is learned from misses; newcomers may have to compete."""

import random
from collections import OrderedDict

import pytest

from ragcache.cache.cache import KnowledgeCache
from ragcache.policy import LRU, POLICIES
from ragcache.tree.tree import Node
from tests.props.tiers import DOCUMENTS, SYSTEM, computed, use
from tests.ragcache.cache.naive_lru import NaiveTree


def test_lru_hits_as_a_naive_lru_does():
    """Paths of one document: what is cached is what an ordered dictionary of the last uses would hold."""
    for capacity in (4, 7, 11, 16, 23):
        chance = random.Random(capacity)
        cache = KnowledgeCache(capacity, 1, LRU())
        reference: OrderedDict[str, int] = OrderedDict()
        for step in range(600):
            document = DOCUMENTS[min(chance.randrange(7), chance.randrange(7))]
            hit = document.label in reference
            if hit:
                reference.move_to_end(document.label)
            else:
                while sum(reference.values()) + len(document) > capacity:
                    reference.popitem(last=False)
                reference[document.label] = len(document)
            assert use(cache, [document]) == hit, f"capacity {capacity}, step {step}"
        assert {node.label for node in cache.tree.nodes()} == reference.keys()
        cache.check_integrity()


def labels_in(cache: KnowledgeCache) -> set[tuple[str, ...]]:
    paths = set()
    for node in cache.tree.nodes():
        path: list[str] = []
        ancestor: Node | None = node
        while ancestor is not None and not ancestor.is_root:
            path.insert(0, ancestor.label)
            ancestor = ancestor.parent
        paths.add(tuple(path))
    return paths


@pytest.mark.parametrize("capacity", [12, 16, 24, 40])
def test_lru_over_trees_is_that_of_a_naive_implementation(capacity):
    chance = random.Random(capacity)
    cache, naive = KnowledgeCache(capacity, 1, LRU()), NaiveTree(capacity)
    for step in range(400):
        path = [SYSTEM, *chance.sample(DOCUMENTS, chance.randrange(3))]
        extra = chance.randrange(2)
        assert use(cache, path, extra) == naive.use(path, extra), f"step {step}"
        assert labels_in(cache) == naive.size.keys(), f"step {step}"
    assert cache.counts.evictions == len(naive.evicted) > 0
    cache.check_integrity()


def test_a_price_is_learned_from_misses_alone():
    """PGDSF (3): the mean over the requests that missed a node of T(alpha, beta) / beta, whichever inserted it."""
    cache = KnowledgeCache(100, 1, POLICIES["pgdsf"](100), cost=lambda cached, new: 1.0 * cached + 10.0 * new)
    use(cache, [SYSTEM])
    path = [SYSTEM, DOCUMENTS[1], DOCUMENTS[2]]  # behind 3 cached tokens, 2 + 3 to compute
    use(cache, path)
    nodes = cache.tree.match(cache.tree.root("default"), path)
    assert [node.seconds_per_token for node in nodes] == pytest.approx([10.0, 53 / 5, 53 / 5])
    for _ in range(3):
        use(cache, path)
    assert [(node.frequency, node.misses) for node in nodes] == [(5, 1), (4, 1), (4, 1)]
    assert [node.seconds_per_token for node in nodes] == pytest.approx([10.0, 53 / 5, 53 / 5])
    two = [cache.lease([SYSTEM, DOCUMENTS[3]], 0), cache.lease([SYSTEM, DOCUMENTS[3], DOCUMENTS[0]], 0)]
    for lease in two:  # both missed the same node, at two prices
        lease.commit(computed(lease))
    assert two[0].nodes[1].seconds_per_token == pytest.approx((43 / 4 + 53 / 5) / 2)
    for lease in two:
        lease.release()
    cache.check_integrity()


def test_a_newcomer_that_competes_may_lose_and_displaces_nothing():
    cache = KnowledgeCache(10, 1, POLICIES["lfu"](10), admission="competes", working=4)
    for _ in range(3):
        use(cache, [SYSTEM])
        use(cache, [DOCUMENTS[2]])  # the six that idle nodes may have are taken, and asked for often
    for document in (DOCUMENTS[0], DOCUMENTS[3]):
        use(cache, [document])
    assert labels_in(cache) == {("system",), ("d2",)}
    assert (cache.counts.rejections, cache.counts.evictions) == (2, 0)
    lease = cache.lease([DOCUMENTS[1], DOCUMENTS[0], DOCUMENTS[3]], 0)  # more than is kept free: it must run
    assert lease is not None
    lease.release()
    assert cache.counts.evictions == 1
    cache.check_integrity()


def test_a_newcomer_that_wins_displaces_as_many_as_it_needs():
    cache = KnowledgeCache(10, 1, LRU(), admission="competes", working=4)
    use(cache, [DOCUMENTS[1]])
    use(cache, [DOCUMENTS[5]])
    use(cache, [DOCUMENTS[3]])
    assert labels_in(cache) == {("d5",), ("d3",)}
    cache.check_integrity()


def test_admission_is_checked():
    with pytest.raises(ValueError, match="one of always, competes, not 'never'"):
        KnowledgeCache(10, 1, LRU(), admission="never")
    with pytest.raises(ValueError, match="does not fit"):
        KnowledgeCache(10, 1, LRU(), admission="competes", working=10)
