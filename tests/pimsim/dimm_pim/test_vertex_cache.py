"""The vertex cache: equal to ordered dictionaries, one for each rank's local part and one for its global."""

from collections import OrderedDict
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.dimm_pim.device import DimmDevice
from pimsim.dimm_pim.search import simulate_search
from pimsim.dimm_pim.state import GLOBAL, LOCAL, MISS
from pimsim.dimm_pim.vertex_cache import look_up, merge
from tests.pimsim.props.searches import device, drawn, ran, traversal
from tests.props.budget import examples

SHARD, RANKS = 24, 2


class Sizes(NamedTuple):
    """What the cache asks of the parameters."""

    local_vectors: int
    global_vectors: int
    ranks: int


class Cached(NamedTuple):
    """What it asks of the state."""

    newer: np.ndarray
    older: np.ndarray
    part: np.ndarray
    owner: np.ndarray
    cached: np.ndarray


def asked(steps, local, shared):
    """Run look-ups (query, vertex) and merges (query, None) on the kernel and on dictionaries; yields both answers."""
    p, ring = Sizes(local, shared, RANKS), np.arange(SHARD + 2 * RANKS)
    s = Cached(ring.copy(), ring.copy(), np.zeros(SHARD, int), np.zeros(SHARD, int), np.zeros((RANKS, 2), int))
    parts = [(OrderedDict(), OrderedDict()) for _ in range(RANKS)]
    for query, vertex in steps:
        if vertex is None:
            merge(p, s, query)
            for mine, all_of in parts:
                for moved in [key for key, owner in mine.items() if owner == query]:
                    del mine[moved]
                    all_of[moved] = None
                    if len(all_of) > shared:
                        all_of.popitem(last=False)
        else:
            mine, all_of = parts[vertex % RANKS]
            source = LOCAL if vertex in mine else GLOBAL if vertex in all_of else MISS
            if source:
                (mine if source == LOCAL else all_of).move_to_end(vertex)
            elif local:
                mine[vertex] = query
                if len(mine) > local:
                    mine.popitem(last=False)
            yield look_up(p, s, vertex % RANKS, vertex, query), source
    for rank, (mine, all_of) in enumerate(parts):
        assert s.cached[rank].tolist() == [len(mine), len(all_of)]
        for part, held in ((LOCAL, mine), (GLOBAL, all_of)):
            begin = SHARD + 2 * rank + part - LOCAL
            order, i = [], s.newer[begin]
            while i != begin:
                order.append(int(i))
                assert s.part[i] == part
                i = s.newer[i]
            assert order == list(held)
    assert (s.part != MISS).sum() == sum(len(held) for both in parts for held in both)


steps = st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, SHARD - 1))), max_size=120)


@settings(max_examples=examples(150), deadline=None)
@given(steps, st.integers(0, 6), st.integers(0, 6))
def test_every_look_up_finds_what_dictionaries_find(steps, local, shared):
    for source, expected in asked(steps, local, shared):
        assert source == expected


def test_a_vector_is_global_only_after_its_query_has_ended():
    first = [(None, [0]), (0, [16])]
    waits = [(None, [1]), *[(1, [17 + 16 * i, 33 + 16 * i]) for i in range(1, 9)], (1, [0, 16])]
    _, _, state = ran(traversal([first, waits], 400), device())
    assert state.source.tolist()[-2:] == [GLOBAL, GLOBAL]
    _, _, state = ran(traversal([[*first, *waits[1:9]], [(None, [1]), (1, [3, 5]), (1, [0, 16])]], 400), device())
    assert state.source.tolist()[-2:] == [LOCAL, LOCAL]


def test_the_parts_share_the_bytes():
    assert device().cached_vectors == (21, 21)
    assert device(rpm__local_share=0.25).cached_vectors == (10, 32)
    assert device(rpm__cache_bytes=3071).cached_vectors == (0, 0)
    assert device(vectors__dim=384).cached_vectors == (42, 43)


def test_a_cache_that_holds_everything_misses_each_vertex_once():
    """Queries one at a time: else a vertex may be asked for again while its first read is on its way."""
    searched = drawn(7, queries=40)
    own = DimmDevice.load("acceldimm")
    huge, one = replace(own.rpm, cache_bytes=1 << 30), replace(own.workload, batch=1)
    result = simulate_search(searched, replace(own, rpm=huge, workload=one)).cache()
    assert result["lookups"] == len(searched.vertices)
    assert result["misses"] == len(np.unique(searched.vertices))
    assert result["hit_ratio"] > 0.3
