"""Tenants come and go by the thousand: nothing stays of those whose KV is gone, and one that comes back is served."""

import gc

import pytest

from ragcache.schedule.order import Order, Waiting
from ragcache.tree.tree import KnowledgeTree, Node
from tests.props.tiers import DOCUMENTS, SYSTEM, Tiered, computed

PATH = [SYSTEM, DOCUMENTS[1]]
TENANTS = [f"tenant {number}" for number in range(1000)]


def roots_of_tenants() -> list[str]:
    """Labels of the roots that are alive anywhere in this process."""
    gc.collect()
    nodes = [each for each in gc.get_objects() if issubclass(type(each), Node)]
    return [node.label for node in nodes if node.label.startswith("tenant ")]


def use(tiered: Tiered, tenant: str, *, commit: bool = True) -> int:
    """One request of a tenant; returns how many segments were cached."""
    lease = tiered.cache.lease(PATH, 1, namespace=tenant)
    assert lease is not None
    with lease:
        if commit:
            lease.commit(computed(lease))
        return lease.cached


@pytest.mark.parametrize("lower", [{}, {"host": 50}, {"disk": 50}], ids=["device", "host", "disk"])
def test_tenants_whose_kv_was_dropped_leave_no_root(lower):
    tiered = Tiered(100, **lower)
    for tenant in TENANTS:  # the last few stay until they are dropped
        assert use(tiered, tenant) == 0
    tiered.settle()
    tiered.cache.check_integrity()
    tiered.cache.drop_unheld()
    tiered.cache.check_integrity()
    assert roots_of_tenants() == []
    assert [use(tiered, TENANTS[0]), use(tiered, TENANTS[0])] == [0, 2]
    assert roots_of_tenants() == TENANTS[:1]
    tiered.cache.check_integrity()


def test_tenants_that_commit_nothing_leave_no_root():
    tiered = Tiered(100)
    for tenant in TENANTS:
        use(tiered, tenant, commit=False)
        assert tiered.cache.lease(PATH, 100, namespace=tenant) is None
    assert roots_of_tenants() == []
    tiered.cache.check_integrity()


def test_requests_that_waited_without_a_lease_leave_no_root():
    tree = KnowledgeTree()
    order = Order(tree, 4)
    for tenant in TENANTS:
        request = Waiting(PATH, tenant)
        order.add(request)
        order.withdraw(request)
    assert roots_of_tenants() == []


def test_many_tenants_keep_nothing_in_the_queue_for_the_disk():
    tiered = Tiered(100, disk=50)
    for tenant in TENANTS:
        use(tiered, tenant)
    tiered.settle()
    tiered.cache.drop_unheld()
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is dict and TENANTS[0] in each]


def test_leases_of_a_tenant_whose_last_node_is_dropped_between_them_share_what_they_compute():
    tiered = Tiered(100)
    cache = tiered.cache
    use(tiered, "tenant")
    before = cache.lease([DOCUMENTS[2]], 0, namespace="tenant")
    assert cache.drop_unheld()[0] == len(PATH)
    first, second = (cache.lease(PATH, 0, namespace="tenant") for _ in range(2))
    assert (first.cached, second.cached) == (0, 0)
    for lease in (first, before, second):
        lease.commit(computed(lease))
        cache.check_integrity()
    assert first.nodes == second.nodes
    assert len(cache.tree) == 3
    for lease in (before, first, second):
        lease.release()
        cache.check_integrity()
    assert use(tiered, "tenant") == 2
    assert cache.drop_unheld()[0] == 3
    assert use(tiered, "tenant") == 0
    cache.check_integrity()


def test_a_request_that_waits_is_told_of_nodes_under_a_root_made_anew():
    tiered = Tiered(100)
    order = Order(tiered.cache.tree, 4)
    use(tiered, "tenant")
    first, request = Waiting([DOCUMENTS[3]], "tenant"), Waiting(PATH, "tenant")
    order.add(first)
    order.add(request)
    assert (order.next(), request.depth) == (request, 2)
    tiered.cache.drop_unheld()
    assert (order.next(), request.depth) == (first, 0)
    use(tiered, "tenant")
    assert (order.next(), request.depth) == (request, 2)
