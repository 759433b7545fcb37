"""The order in which a tier would give everything up is the one in which it then does, and asking changes nothing."""

import random

import pytest

from ragcache.cache.cache import KnowledgeCache
from ragcache.policy import POLICIES
from ragcache.tree.segment import Segment

SEGMENTS = [Segment.of(f"document {n}", range(n, n + 3 + n % 4)) for n in range(12)]


def traffic(policy: str, seed: int, requests: int = 80) -> KnowledgeCache:
    source = random.Random(seed)
    cache = KnowledgeCache(40, 1, POLICIES[policy](40))
    for _ in range(requests):
        path = [SEGMENTS[min(int(source.expovariate(0.4)), 11)] for _ in range(source.choice([1, 2, 3]))]
        with cache.lease(path, 0) as lease:
            lease.commit([object() for _ in lease.missing])
    return cache


@pytest.mark.parametrize("policy", ["lru", "lfu", "pgdsf", "gdsf"])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_order_of_evictions(policy, seed):
    cache = traffic(policy, seed)
    device = cache.hierarchy.device
    order = device.eviction_order()
    cache.check_integrity()
    assert len(order) == device.nodes > 3
    assert device.eviction_order() == order
    evicted = []
    while device.nodes:
        evicted.append(device.victim())
        cache.hierarchy.evict(evicted[-1])
    assert evicted == order


@pytest.mark.parametrize("policy", ["arc", "sieve", "s3fifo", "wtinylfu"])
def test_every_policy_has_an_order_with_children_before_parents(policy):
    cache = traffic(policy, 1)
    order = cache.hierarchy.device.eviction_order()
    cache.check_integrity()
    assert sorted(node.id for node in order) == sorted(node.id for node in cache.tree.nodes())
    position = {node.id: number for number, node in enumerate(order)}
    assert all(node.parent.is_root or position[node.id] < position[node.parent.id] for node in order)


def test_what_is_held_is_not_in_the_order():
    cache = traffic("lru", 2)
    (node,) = cache.tree.match(cache.tree.root("default"), SEGMENTS[:1]) or [None]
    assert node is not None
    with cache.lease(SEGMENTS[:1], 0):
        assert node not in cache.hierarchy.device.eviction_order()
