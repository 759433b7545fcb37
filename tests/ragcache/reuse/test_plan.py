"""A plan reads the longest cached prefix and computes the rest; nothing behind moved KV is kept as exact."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcache.cache.cache import KnowledgeCache
from ragcache.cache.lease import Lease
from ragcache.engine.protocol import EngineEvent, Finished, Job, Prefilled, Sampling
from ragcache.policy import LRU
from ragcache.prompt.prompt import Prompt
from ragcache.reuse import prefix
from ragcache.reuse.plan import Computed, Exact, Moved, Piece, ReusePlan, exact_part, keepable, lengths, prefix_and_rest
from ragcache.schedule.admission import AdmissionQueue
from ragcache.schedule.generation import Generation, GenerationTask
from ragcache.tree.segment import Segment

PATH = tuple(Segment.of(f"s{number}", range(1, 2 + number)) for number in range(4))  # 1, 2, 3 and 4 tokens
PIECES = [Exact(5, "a"), Moved(3, "b", -2), Computed([1, 2]), Computed(range(4))]
plans = st.lists(st.sampled_from(PIECES), max_size=6).map(tuple)


def cached(path: Sequence[Segment], room: int = 100) -> KnowledgeCache:
    """A cache of one byte a token that has this path."""
    cache = KnowledgeCache(room, 1, LRU())
    with cache.lease(path, 0) as lease:
        lease.commit([segment.label for segment in lease.missing])
    return cache


@pytest.mark.parametrize("depth", range(5))
def test_the_longest_cached_prefix_is_exact_and_the_rest_is_computed(depth):
    cache = cached(PATH[:depth])
    expected: list[Piece] = [Exact(len(segment), segment.label) for segment in PATH[:depth]]
    expected += [Computed(segment.tokens) for segment in PATH[depth:]]
    with cache.lease(PATH, 0) as lease:
        plan = lease.plan
        assert plan == tuple(expected)
        assert lengths(plan) == (lease.cached_tokens, 0, lease.missed_tokens)
        assert prefix.cached_tokens(lease.nodes) == lengths(plan).exact
        lease.commit(["kv"] * len(lease.missing))
        assert lease.plan == plan, "what a request has computed itself does not count as cached for it"


def test_there_cannot_be_more_nodes_than_segments():
    with cached(PATH).lease(PATH, 0) as lease, pytest.raises(ValueError, match=r"4 nodes .* first of 3 segments"):
        prefix.plan(PATH[:3], lease.nodes)


@given(plans)
def test_lengths_add_up_to_the_path(plan: ReusePlan):
    assert sum(lengths(plan)) == sum(map(len, plan))


@given(plans)
def test_only_an_exact_prefix_can_be_read_by_an_engine_that_knows_no_more(plan: ReusePlan):
    kinds = "".join({Exact: "e", Moved: "m", Computed: "c"}[type(piece)] for piece in plan)
    if kinds == "e" * kinds.count("e") + "c" * kinds.count("c"):
        exact, computed = prefix_and_rest(plan)
        assert (*exact, *computed) == plan
    else:
        with pytest.raises(ValueError, match="read exact KV first"):
            prefix_and_rest(plan)


@given(plans, st.integers(0, 20))
def test_what_may_be_kept_is_complete_and_has_no_moved_kv_before_it(plan: ReusePlan, computed_tokens: int):
    kept = keepable(plan, computed_tokens)
    moved = [index for index, piece in enumerate(plan) if isinstance(piece, Moved)]
    before = plan[: min(moved, default=len(plan))]
    assert exact_part(plan) == before
    assert kept == [piece for piece in before if isinstance(piece, Computed)][: len(kept)]
    assert sum(map(len, kept)) <= computed_tokens
    left = [piece for piece in before if isinstance(piece, Computed)][len(kept) :]
    assert not left or sum(map(len, kept)) + len(left[0]) > computed_tokens


def test_computed_behind_moved_kv_is_not_kept():
    first, second = Computed(range(4)), Computed(range(6))
    assert keepable((Exact(5, "a"), first, second), 10) == [first, second]
    assert keepable((Exact(5, "a"), first, second), 9) == [first]
    assert keepable((Exact(5, "a"), first, Moved(3, "b", 7), second), 10) == [first]
    assert keepable((Moved(3, "b", 7), first, second), 10) == []


class Instant:
    """An engine that says at once that it has computed all of a prompt."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def allocate(self, tokens: int) -> str:
        return f"{tokens} tokens"

    def submit(self, job: Job, deliver: Callable[[EngineEvent], None]) -> Callable[[], None]:
        self.jobs.append(job)
        computed = lengths(job.plan).computed + len(job.question)
        deliver(Prefilled(computed))
        deliver(Finished("length", computed))
        return lambda: None


def generated(cache: KnowledgeCache) -> tuple[Job, Generation]:
    """One generation over PATH, from its lease to its end."""

    async def main() -> tuple[Job, Generation]:
        engine: Any = Instant()
        generation = Generation(cache, engine, AdmissionQueue(1), lambda: None)
        await generation.start(GenerationTask(Prompt(PATH, [7, 8]), 2, 1, Sampling()))
        while not generation.ended:
            await generation.next()
        return engine.jobs[0], generation

    return asyncio.run(main())


def test_a_generation_hands_over_what_the_plan_says(monkeypatch):
    """The second segment is moved: the first becomes a node, and those behind the moved one do not."""
    cache = KnowledgeCache(100, 1, LRU())
    first, _, third, fourth = map(Computed, [segment.tokens for segment in PATH])
    plan = first, Moved(2, "elsewhere", 40), third, fourth
    monkeypatch.setattr(Lease, "plan", plan)
    job, generation = generated(cache)
    assert job.plan == plan
    assert job.targets == ["1 tokens", "3 tokens", "4 tokens"], "all that is computed needs memory"
    assert [node.label for node in cache.tree.nodes()] == ["s0"]
    assert generation.wasted_tokens == 3 + 4 + 2
    cache.check_integrity()


def test_a_generation_over_a_prefix_hands_over_all_it_computed():
    cache = cached(PATH[:1])
    job, generation = generated(cache)
    assert job.targets == ["2 tokens", "3 tokens", "4 tokens"]
    assert sorted(node.label for node in cache.tree.nodes()) == ["s0", "s1", "s2", "s3"]
    assert generation.wasted_tokens == 2  # the question
