"""Any order of leases, commits, releases and clears on one tier: books balance, and equal calls give equal trees."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from ragcache.cache.cache import ADMISSIONS, KnowledgeCache, Lease
from ragcache.policy import POLICIES
from ragcache.tree.segment import Segment
from tests.props.budget import examples
from tests.props.tiers import DOCUMENTS, SYSTEM, computed, snapshot


class Traffic(RuleBasedStateMachine):
    """Any order of leases, commits, releases and clears, on two caches in step; holds the invariants after each."""

    leases = Bundle("leases")

    @initialize(
        capacity=st.integers(4, 40),
        keep=st.booleans(),
        policy=st.sampled_from(sorted(POLICIES)),
        admission=st.sampled_from(ADMISSIONS),
        working=st.integers(0, 20),
    )
    def build(self, capacity: int, keep: bool, policy: str, admission: str, working: int) -> None:
        options: dict[str, Any] = {"keep": keep, "admission": admission, "working": min(working, capacity - 1)}
        self.pair = [KnowledgeCache(capacity, 1, POLICIES[policy](capacity), **options) for _ in range(2)]
        self.stay_limit = capacity - options["working"] if admission == "competes" else capacity
        self.open: list[tuple[Lease, Lease]] = []

    @rule(
        target=leases,
        documents=st.lists(st.sampled_from(DOCUMENTS), max_size=3),
        extra=st.integers(0, 6),
        namespace=st.sampled_from(["default", "other"]),
    )
    def lease(self, documents: list[Segment], extra: int, namespace: str) -> Any:
        path = [SYSTEM, *documents]
        before = [(cache.balance(), snapshot(cache)) for cache in self.pair]
        taken = [cache.lease(path, extra, namespace=namespace) for cache in self.pair]
        assert (taken[0] is None) == (taken[1] is None)
        if taken[0] is None:
            assert [(cache.balance(), snapshot(cache)) for cache in self.pair] == before
            assert self.open or not self.pair[0].can_ever_lease(path, extra), "an idle cache refused"
            return None
        self.open.append((taken[0], taken[1]))
        return self.open[-1]

    @rule(pair=leases)
    def commit(self, pair: Any) -> None:
        if pair in self.open and pair[0].missing and len(pair[0].nodes) == pair[0].cached:
            for lease in pair:
                lease.commit(computed(lease))

    @rule(pair=consumes(leases))
    def release(self, pair: Any) -> None:
        if pair in self.open:
            self.open.remove(pair)
            for lease in pair:
                lease.release()

    @rule()
    def clear(self) -> None:
        nodes, size = self.pair[0].drop_unheld()
        assert self.pair[1].drop_unheld() == (nodes, size)
        assert self.pair[0].balance().cached == 0

    @invariant()
    def books_balance(self) -> None:
        for cache in getattr(self, "pair", ()):
            cache.check_integrity()
            balance = cache.balance()
            assert balance.free + balance.cached + balance.held == balance.total
            assert min(balance.free, balance.cached, balance.held) >= 0
            if not self.open:
                assert balance.held == 0
                assert balance.cached <= self.stay_limit

    @invariant()
    def what_is_held_is_there_and_right(self) -> None:
        for pair in getattr(self, "open", ()):
            for lease in pair:
                for depth, node in enumerate(lease.nodes):
                    assert node.kv.content == tuple(tuple(s.tokens) for s in lease.path[: depth + 1])
                assert lease.lender.tree.match(lease.root, lease.path)[: len(lease.nodes)] == lease.nodes

    @invariant()
    def equal_calls_give_equal_trees(self) -> None:
        if hasattr(self, "pair"):
            assert snapshot(self.pair[0]) == snapshot(self.pair[1])
            assert self.pair[0].counts == self.pair[1].counts

    def teardown(self) -> None:
        for pair in getattr(self, "open", ()):
            for lease in pair:
                lease.release()
        for cache in getattr(self, "pair", ()):
            cache.check_integrity()
            assert cache.balance().held == 0


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=examples(300), stateful_step_count=40, deadline=None)
