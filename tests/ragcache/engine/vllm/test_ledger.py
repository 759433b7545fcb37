"""The ledger in front of vLLM: what a request may share with prompts that are being computed."""

from collections.abc import Iterator, Sequence

import pytest

from ragcache.cache.lease import Lease
from ragcache.engine.vllm.front.vllm_kv import VllmKV
from ragcache.tree.segment import Segment
from tests.props.reported_engine import ReportedEngine

SYSTEM, A, B, C = (Segment.of(name, range(100 * n, 100 * n + 8)) for n, name in enumerate(["system", "A", "B", "C"], 1))


@pytest.fixture
def engine() -> Iterator[ReportedEngine]:
    made = ReportedEngine()
    yield made
    made.ledger.check_integrity()
    made.close()


def leased(engine: ReportedEngine, *path: Segment, namespace: str = "default") -> Lease:
    lease = engine.ledger.lease(path, 2, namespace=namespace)
    assert lease is not None
    return lease


def prefilled(lease: Lease, device: int, host: int = 0) -> Lease:
    """vLLM has computed the prompt, of which it had these tokens."""
    lease.commit([VllmKV(len(segment), (device, host, 0)) for segment in lease.missing])
    return lease


def shared(*leases: Lease) -> Sequence[int]:
    for lease in leases:
        lease.release()
    return [lease.shared_tokens for lease in leases]


def test_what_another_prompt_is_computing_counts_as_far_as_vllm_had_it_in_the_end(engine):
    first, same, beginning = leased(engine, SYSTEM, A, B), leased(engine, SYSTEM, A, B), leased(engine, SYSTEM, A, C)
    prefilled(first, 0)
    prefilled(same, 24)
    prefilled(beginning, 12)
    assert shared(first, same, beginning) == [0, 24, 12]


def test_what_was_cached_before_is_not_shared(engine):
    engine.serve([SYSTEM, A])
    first, second = leased(engine, SYSTEM, A, B), leased(engine, SYSTEM, A, B)
    assert shared(prefilled(first, 16), prefilled(second, 24)) == [0, 8]


def test_nothing_is_shared_behind_a_prompt_that_is_computed_or_with_another_tenant(engine):
    first, yours = leased(engine, SYSTEM, A), leased(engine, SYSTEM, A, namespace="yours")
    prefilled(first, 0)
    late = prefilled(leased(engine, SYSTEM, A), 16)
    assert shared(first, prefilled(yours, 0), late) == [0, 0, 0]
