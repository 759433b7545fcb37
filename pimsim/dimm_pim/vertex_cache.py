"""Vertex cache: the LRU cache of vectors beside each rank, in a local and a global part; compiled.

A vector that came from DRAM enters the local part, which all running queries share; when a query ends, what it brought
goes over to the global part. A hit in either makes the vector its part's most recent and moves nothing between them.
"""

from typing import Any

from pimsim.compiled import part
from pimsim.dimm_pim.state import GLOBAL, LOCAL, MISS


@part
def look_up(p: Any, s: Any, rank: Any, vertex: Any, query: Any) -> Any:
    """Look a vertex up; returns MISS, LOCAL or GLOBAL. One that is missing enters the local part, in place of its least
    recently used.
    """
    part = s.part[vertex]
    if part != MISS:
        _unlink(s, vertex)
        _link(s, _ring(s, rank, part), vertex)
    elif p.local_vectors:
        ring = _ring(s, rank, LOCAL)
        if s.cached[rank, 0] == p.local_vectors:
            _drop(s, rank, LOCAL)
        s.part[vertex], s.owner[vertex] = LOCAL, query
        s.cached[rank, 0] += 1
        _link(s, ring, vertex)
    return part


@part
def merge(p: Any, s: Any, query: Any) -> None:
    """Move what a query brought over to the global parts, in its order of recency."""
    for rank in range(p.ranks):
        ring = _ring(s, rank, LOCAL)
        vertex = s.newer[ring]  # the ring closes: after its beginning comes the oldest
        while vertex != ring:
            after = s.newer[vertex]
            if s.owner[vertex] == query:
                _unlink(s, vertex)
                s.cached[rank, 0] -= 1
                s.part[vertex] = MISS
                if p.global_vectors:
                    if s.cached[rank, 1] == p.global_vectors:
                        _drop(s, rank, GLOBAL)
                    s.part[vertex] = GLOBAL
                    s.cached[rank, 1] += 1
                    _link(s, _ring(s, rank, GLOBAL), vertex)
            vertex = after


@part
def _ring(s: Any, rank: Any, part: Any) -> Any:
    return s.part.shape[0] + 2 * rank + part - LOCAL


@part
def _drop(s: Any, rank: Any, part: Any) -> None:
    oldest = s.newer[_ring(s, rank, part)]
    _unlink(s, oldest)
    s.part[oldest] = MISS
    s.cached[rank, part - LOCAL] -= 1


@part
def _link(s: Any, ring: Any, vertex: Any) -> None:
    """Make a vertex the most recent of a ring: the last before its beginning."""
    last = s.older[ring]
    s.newer[last], s.older[vertex] = vertex, last
    s.newer[vertex], s.older[ring] = ring, vertex


@part
def _unlink(s: Any, vertex: Any) -> None:
    s.newer[s.older[vertex]], s.older[s.newer[vertex]] = s.newer[vertex], s.older[vertex]
