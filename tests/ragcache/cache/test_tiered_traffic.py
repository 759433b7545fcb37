"""Any order of leases, commits, moves and failures over three tiers: the books balance, and no KV is ever wrong."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from ragcache.cache.cache import ADMISSIONS, Lease
from ragcache.policy import POLICIES
from ragcache.tree.segment import Segment
from ragcache.tree.tree import DEVICE, DISK
from tests.props.budget import examples
from tests.props.tiers import DOCUMENTS, SYSTEM, Kv, Tiered, computed, spelled


class Running:
    """A request on each of two caches in step: its leases, and the memory that it fills once they are ready."""

    def __init__(self, leases: tuple[Lease, Lease], extra: int) -> None:
        self.leases = leases
        self.extra = extra
        self.memory: list[list[Kv]] = []
        self.own: list[Kv] = []


class TieredTraffic(RuleBasedStateMachine):
    requests = Bundle("requests")

    @initialize(
        device=st.integers(12, 30),
        host=st.sampled_from([0, 6, 12, 30]),
        disk=st.sampled_from([0, 8, 16, 60]),
        policy=st.sampled_from(sorted(POLICIES)),
        admission=st.sampled_from(ADMISSIONS),
        working=st.integers(0, 10),
        share=st.booleans(),
    )
    def build(self, device: int, host: int, disk: int, policy: str, admission: str, working: int, share: bool) -> None:
        options: dict[str, Any] = {"admission": admission, "working": min(working, device - 1)}
        options["share_in_flight"] = self.share = share
        self.shared = self.inherited = 0  # requests that waited for another one's KV, and that computed it themselves
        self.pair = [Tiered(device, host, disk, policy, by_hand=True, **options) for _ in range(2)]
        self.open: list[Running] = []

    @rule(
        target=requests,
        documents=st.lists(st.sampled_from(DOCUMENTS), max_size=3),
        extra=st.integers(0, 4),
        namespace=st.sampled_from(["default", "default", "other"]),
    )
    def lease(self, documents: list[Segment], extra: int, namespace: str) -> Any:
        path = [SYSTEM, *documents]
        before = [self.snapshot(tiered) for tiered in self.pair]
        leases = [tiered.cache.lease(path, extra, namespace=namespace) for tiered in self.pair]
        assert (leases[0] is None) == (leases[1] is None)
        if leases[0] is None or leases[1] is None:
            assert [self.snapshot(tiered) for tiered in self.pair] == before
            idle = not self.open and not self.pair[0].cache.moving
            assert not (idle and self.pair[0].cache.can_ever_lease(path, extra)), "an idle cache refused"
            return None
        assert leases[0].cached_by_tier == leases[1].cached_by_tier
        assert leases[0].cached_tokens + leases[0].missed_tokens == sum(map(len, path))
        self.shared += leases[0].shared_tokens > 0
        self.open.append(Running((leases[0], leases[1]), extra))
        return self.open[-1]

    @rule(documents=st.lists(st.sampled_from(DOCUMENTS), min_size=1, max_size=3), then_settle=st.booleans())
    def ask(self, documents: list[Segment], then_settle: bool) -> None:
        """A whole request, if there is room for it; what it leaves to be moved may wait."""
        request = self.lease(documents, 0, "default")
        if request is None:
            return
        for _ in range(10):
            self.move("copies", "both")
            self.move("writes", "both")
            self.move("reads", "both")
        self.begin(request)
        self.commit(request, len(documents) + 1)
        self.release(request)
        if then_settle:
            self.settle()

    @rule(request=requests)
    def begin(self, request: Running | None) -> None:
        """The engine gets its memory, as soon as the lease says that it is there."""
        if request in self.open and not request.memory and request.leases[0].ready and not request.leases[0].broken:
            for tiered, lease in zip(self.pair, request.leases, strict=True):
                request.memory.append(computed(lease, tiered.alive))
                if request.extra:
                    request.own.append(Kv(((0,) * request.extra,), tiered.alive))

    @rule(request=requests, pieces=st.integers(0, 4))
    def commit(self, request: Running | None, pieces: int) -> None:
        if request in self.open and request.memory:
            for lease, memory in zip(request.leases, request.memory, strict=True):
                lease.commit(memory[lease.committed :][:pieces])

    @rule(request=consumes(requests))
    def release(self, request: Running | None) -> None:
        if request in self.open:
            self.open.remove(request)
            request.memory, request.own = [], []
            before = [each.leases[0].cached for each in self.open]
            for lease in request.leases:
                lease.release()
            self.inherited += before != [each.leases[0].cached for each in self.open]

    @rule(which=st.sampled_from(["copies", "writes", "reads"]), step=st.sampled_from(["work", "tell", "both", "both"]))
    def move(self, which: str, step: str) -> None:
        for tiered in self.pair:
            mover = getattr(tiered, which)
            for name in ("work", "tell") if step == "both" else (step,):
                getattr(mover, name)()

    @rule()
    def settle(self) -> None:
        for tiered in self.pair:
            tiered.settle()
        for number, request in enumerate(self.open):
            lease = request.leases[0]
            awaited = [node for node in lease.nodes[: lease.cached] if node.kv is None]
            assert lease.ready == (lease.broken or not awaited), "nothing moves, and a lease still waits"
            for node in [] if lease.broken else awaited:
                assert any(node in earlier.leases[0].nodes for earlier in self.open[:number]), "none computes it"

    @rule(store=st.sampled_from(["shelf", "box"]), reason=st.sampled_from(["checksum", "io", "full", "memory"]))
    def fail_next(self, store: str, reason: str) -> None:
        for tiered in self.pair:
            getattr(tiered, store).reasons.append(reason)

    @rule()
    def clear(self) -> None:
        dropped = [tiered.cache.drop_unheld() for tiered in self.pair]
        assert dropped[0] == dropped[1]

    @rule()
    def lose_device(self) -> None:
        lost = [tiered.cache.lose_device() for tiered in self.pair]
        assert lost[0] == lost[1]

    @invariant()
    def books_balance(self) -> None:
        for tiered in getattr(self, "pair", ()):
            tiered.cache.check_integrity()
            for tier in tiered.cache.hierarchy.tiers():
                balance = tier.balance()
                assert balance.free + balance.cached + balance.held == balance.total
                assert min(balance.free, balance.cached, balance.held) >= 0
                counts = tier.counts
                assert min(counts.hits, counts.misses, counts.hit_tokens, counts.missed_tokens) >= 0

    @invariant()
    def memory_of_the_device_is_never_more_than_there_is(self) -> None:
        for tiered in getattr(self, "pair", ()):
            assert sum(kv.size for kv in tiered.alive) <= tiered.cache.capacity

    @invariant()
    def what_a_ready_lease_holds_is_on_the_device_and_right(self) -> None:
        for request in getattr(self, "open", ()):
            for lease in request.leases:
                for depth, node in enumerate(lease.nodes):
                    assert node.places[DEVICE] is not None
                    if depth >= lease.cached + lease.committed:
                        assert self.share
                        assert node.kv is None
                    elif lease.ready and not lease.broken:
                        assert node.kv.content == spelled(lease.path[: depth + 1])

    @invariant()
    def none_computes_what_another_one_computes(self) -> None:
        if getattr(self, "share", False):
            computing = [
                (lease.root.label, spelled(lease.path[: depth + 1]))
                for lease in (request.leases[0] for request in self.open if request.memory)
                for depth in range(lease.cached + lease.committed, len(lease.path))
            ]
            assert len(computing) == len(set(computing))

    @invariant()
    def what_is_on_disk_can_be_used_from_the_disk_alone(self) -> None:
        for tiered in getattr(self, "pair", ()):
            for node in tiered.cache.tree.nodes():
                place = node.places[DISK] if len(node.places) > DISK else None
                if place is not None and place.copy is not None:
                    assert tiered.box.records[place.copy] == spelled_path(node)
                    assert node.parent.is_root or node.parent.places[DISK] is not None

    @invariant()
    def equal_calls_give_equal_caches(self) -> None:
        if hasattr(self, "pair"):
            assert self.snapshot(self.pair[0]) == self.snapshot(self.pair[1])

    def teardown(self) -> None:
        for request in getattr(self, "open", ()):
            request.memory, request.own = [], []
            for lease in request.leases:
                lease.release()
        for tiered in getattr(self, "pair", ()):
            tiered.shelf.reasons.clear()
            tiered.box.reasons.clear()
            tiered.settle()
            cache = tiered.cache
            cache.check_integrity()
            assert cache.idle
            assert all(tier.balance().held == 0 for tier in cache.hierarchy.tiers())
            known = {n.places[DISK].copy for n in cache.tree.nodes() if len(n.places) > DISK and n.places[DISK]}
            assert known <= tiered.box.records.keys()
            # a record outlives its node only where its removal failed
            assert tiered.box.records.keys() - known <= tiered.box.not_removed
            cache.drop_unheld()
            assert len(cache.tree) == 0
            assert all(tier.balance().free == tier.capacity for tier in cache.hierarchy.tiers())

    @staticmethod
    def snapshot(tiered: Tiered) -> Any:
        cache = tiered.cache
        nodes = sorted(
            (
                node.id,
                node.frequency,
                node.last_use,
                *((place.holders, place.copy is None) if place else None for place in node.places),
            )
            for node in cache.tree.nodes()
        )
        # but for refusals, the one thing that a refusal may change
        counts = [repr(dataclasses.replace(tier.counts, refusals=0)) for tier in cache.hierarchy.tiers()]
        return nodes, counts, [tier.balance() for tier in cache.hierarchy.tiers()], sorted(tiered.box.records)


def spelled_path(node: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(each.tokens) for each in node.path())


TestTieredTraffic = TieredTraffic.TestCase
TestTieredTraffic.settings = settings(max_examples=examples(150), stateful_step_count=50, deadline=None)


@pytest.mark.parametrize("seed", range(8))
def test_long_and_random(seed: int) -> None:
    """Hypothesis looks for short stories; this one is long: every tier fills up and every kind of move occurs."""
    chance = random.Random(seed)
    traffic = TieredTraffic()
    traffic.build(
        device=chance.randint(12, 24),
        host=chance.choice([6, 12, 20]),
        disk=chance.choice([12, 24, 60]),
        policy=sorted(POLICIES)[seed % len(POLICIES)],
        admission=ADMISSIONS[seed // 2 % 2],
        working=chance.randint(0, 6),
        share=seed % 2 == 1,
    )
    requests: list[Running] = []
    seen: Counter[str] = Counter()

    def some_documents() -> list[Segment]:
        return chance.choices(DOCUMENTS, weights=range(7, 0, -1), k=chance.randint(0, 3))

    for _ in range(2_500):
        requests = [request for request in requests if request in traffic.open]
        step = chance.choices(
            ["ask", "lease", "begin", "commit", "release", "move", "settle", "fail_next", "clear", "lose_device"],
            [20, 10, 20, 20, 12, 40, 3, 2, 0.05, 0.1],
        )[0]
        if step == "ask":
            traffic.ask(some_documents(), chance.random() < 0.3)
        elif step == "lease":
            request = traffic.lease(some_documents(), chance.randint(0, 2), chance.choice(["default", "other"]))
            requests += [request] if request else []
        elif step in ("begin", "commit", "release"):
            if requests:
                more = [chance.randint(1, 4)] if step == "commit" else []
                getattr(traffic, step)(chance.choice(requests), *more)
        elif step == "move":
            traffic.move(chance.choice(["copies", "writes", "reads"]), chance.choice(["work", "tell", "both"]))
        elif step == "fail_next":
            traffic.fail_next(chance.choice(["shelf", "box"]), chance.choice(["checksum", "io", "full", "memory"]))
        else:
            getattr(traffic, step)()
        traffic.books_balance()
        traffic.memory_of_the_device_is_never_more_than_there_is()
        traffic.what_a_ready_lease_holds_is_on_the_device_and_right()
        traffic.none_computes_what_another_one_computes()
        traffic.what_is_on_disk_can_be_used_from_the_disk_alone()
        traffic.equal_calls_give_equal_caches()
    cache = traffic.pair[0].cache
    for tier in cache.hierarchy.tiers():
        for name in ("hits", "insertions", "evictions"):
            seen[f"{tier.name} {name}"] = getattr(tier.counts, name)
    seen |= {name: counts.moves for name, counts in cache.hierarchy.moves.counts.items()}
    seen |= {"failures": sum(sum(tier.counts.failures.values()) for tier in cache.hierarchy.lower)}
    if traffic.share:
        seen |= {"shared": traffic.shared, "inherited": traffic.inherited}
    assert min(seen.values()) > 0, seen
    traffic.teardown()
