"""HNSW kernel: best-first traversal of a FAISS graph, compiled, and resumable after any number of vertices.

The pool holds the best vertices seen, at most `ef` of them, sorted. An entry is one int64 and entries order as numbers:

    bits 63..32  distance, as an integer that orders alike      bits 31..1  vertex      bit 0  expanded

Equal distances thus order by vertex, and a traversal depends on its graph and query alone. Distances are what is
minimised: squared distances, or negated inner products.
"""

from typing import Any

import numpy as np
from numba import njit

from retrieval.compiled import kernel

# a traversal's state; entries of the pool before CURSOR are expanded
SIZE, CURSOR, HOPS, VISITS, STAMP = range(5)
STATE = 5
_LOW = 0xFFFFFFFF
_MAGNITUDE = 0x7FFFFFFF


@njit(fastmath=True)
def _four_inner_products(query: Any, vectors: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    # together, because their reads from memory then overlap: a third faster than one after another
    total_a = total_b = total_c = total_d = np.float32(0)
    for at in range(query.shape[0]):
        value = query[at]
        total_a += value * vectors[a, at]
        total_b += value * vectors[b, at]
        total_c += value * vectors[c, at]
        total_d += value * vectors[d, at]
    return total_a, total_b, total_c, total_d


@njit(fastmath=True)
def _four_squared_distances(query: Any, vectors: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    total_a = total_b = total_c = total_d = np.float32(0)
    for at in range(query.shape[0]):
        value = query[at]
        from_a, from_b = value - vectors[a, at], value - vectors[b, at]
        from_c, from_d = value - vectors[c, at], value - vectors[d, at]
        total_a += from_a * from_a
        total_b += from_b * from_b
        total_c += from_c * from_c
        total_d += from_d * from_d
    return total_a, total_b, total_c, total_d


@njit
def _compare(query: Any, vectors: Any, squared: Any, rows: Any, count: Any, distances: Any) -> None:
    """Distances of the first `count` rows. `rows` and `distances` have room for the next multiple of four.

    Equal vectors get equal distances: every one is summed in the same order, so the last four may repeat a row.
    """
    zero = np.float32(0)
    for at in range(count, count + -count % 4):
        rows[at] = rows[count - 1]
    for at in range(0, count, 4):
        four = rows[at], rows[at + 1], rows[at + 2], rows[at + 3]
        if squared:
            a, b, c, d = _four_squared_distances(query, vectors, *four)
        else:
            a, b, c, d = _four_inner_products(query, vectors, *four)
            # subtracted, not negated: 0 stays +0, whose bits order as they should
            a, b, c, d = zero - a, zero - b, zero - c, zero - d
        distances[at], distances[at + 1], distances[at + 2], distances[at + 3] = a, b, c, d


@njit
def _entry(distance: Any, vertex: Any) -> Any:
    bits = np.int64(np.float32(distance).view(np.int32))
    if bits < 0:  # IEEE 754 has sign and magnitude: the bits of negative numbers order backwards
        bits ^= np.int64(_MAGNITUDE)
    return (bits << np.int64(32)) | (np.int64(vertex) << np.int64(1))


@njit
def _vertex(entry: Any) -> Any:
    return (entry & np.int64(_LOW)) >> np.int64(1)


@kernel
def start(
    query: Any,
    vectors: Any,
    squared: Any,
    neighbours: Any,
    offsets: Any,
    spans: Any,
    entry_point: Any,
    seen: Any,
    pool: Any,
    state: Any,
    visits: Any,
    hops: Any,
) -> None:
    """Go down the upper levels to the vertex nearest to the query on each, and begin the pool with the last one.

    `spans[level]` and `spans[level + 1]` bound a vertex's neighbours on a level, from its offset on. `state[STAMP]`
    holds the last stamp used in `seen`; each level takes a new one.
    """
    recorded = visits.shape[1] > 0
    fresh = np.empty(spans[1] + 4, np.int64)
    distances = np.empty(spans[1] + 4, np.float32)
    fresh[0] = entry_point
    _compare(query, vectors, squared, fresh, 1, distances)
    nearest, shortest = fresh[0], distances[0]
    state[HOPS], state[VISITS] = 0, 1
    if recorded:
        visits[0, 0], visits[1, 0] = nearest, spans.shape[0] - 2
    for level in range(spans.shape[0] - 2, 0, -1):
        state[STAMP] += 1
        seen[nearest] = state[STAMP]
        moved = True
        while moved:
            moved = False
            first = offsets[nearest]
            if recorded:
                hops[0, state[HOPS]], hops[1, state[HOPS]] = nearest, level
            count = _gather(neighbours, first + spans[level], first + spans[level + 1], seen, state[STAMP], fresh)
            _compare(query, vectors, squared, fresh, count, distances)
            for at in range(count):
                if recorded:
                    visits[0, state[VISITS] + at], visits[1, state[VISITS] + at] = fresh[at], level
                if distances[at] < shortest:
                    nearest, shortest, moved = fresh[at], distances[at], True
            state[VISITS] += count
            if recorded:
                hops[2, state[HOPS]] = state[VISITS]
            state[HOPS] += 1
    state[STAMP] += 1
    seen[nearest] = state[STAMP]
    pool[0] = _entry(shortest, nearest)
    state[SIZE] = 1
    state[CURSOR] = 0


@kernel
def advance(
    query: Any,
    vectors: Any,
    squared: Any,
    neighbours: Any,
    offsets: Any,
    spans: Any,
    seen: Any,
    pool: Any,
    state: Any,
    budget: Any,
    visits: Any,
    hops: Any,
) -> Any:
    """Expand up to `budget` more vertices on the lowest level, nearest first; returns how many.

    Fewer, and none from then on, when all of the pool is expanded: no vertex left could bring a better one.
    """
    recorded = visits.shape[1] > 0
    stamp = state[STAMP]
    size, cursor = state[SIZE], state[CURSOR]
    fresh = np.empty(spans[1] + 4, np.int64)
    distances = np.empty(spans[1] + 4, np.float32)
    expanded = 0
    while expanded < budget and cursor < size:
        vertex = _vertex(pool[cursor])
        pool[cursor] |= np.int64(1)
        expanded += 1
        count = _gather(neighbours, offsets[vertex], offsets[vertex] + spans[1], seen, stamp, fresh)
        _compare(query, vectors, squared, fresh, count, distances)
        lowest = cursor + 1
        for at in range(count):
            size, place = _insert(pool, size, _entry(distances[at], fresh[at]))
            lowest = min(lowest, place)
        cursor = lowest
        while cursor < size and pool[cursor] & np.int64(1):
            cursor += 1
        if recorded:
            for at in range(count):
                visits[0, state[VISITS] + at], visits[1, state[VISITS] + at] = fresh[at], 0
            hops[0, state[HOPS]], hops[1, state[HOPS]], hops[2, state[HOPS]] = vertex, 0, state[VISITS] + count
        state[VISITS] += count
        state[HOPS] += 1
    state[SIZE], state[CURSOR] = size, cursor
    return expanded


@njit
def _gather(neighbours: Any, first: Any, last: Any, seen: Any, stamp: Any, fresh: Any) -> Any:
    """Put those of a vertex's neighbours that were not seen on this level into `fresh`; returns how many.

    What was seen is compared already: above the lowest level it is no nearer than the nearest.
    """
    count = 0
    for at in range(first, last):
        vertex = np.int64(neighbours[at])
        if vertex < 0:
            break
        if seen[vertex] != stamp:
            seen[vertex] = stamp
            fresh[count] = vertex
            count += 1
    return count


@njit
def _insert(pool: Any, size: Any, entry: Any) -> Any:
    """Put an entry into the sorted pool, pushing the last one out if it is full; returns size and the entry's place.

    An entry that comes after all of a full pool is left out, and has the place after the last.
    """
    last = size
    if size == pool.shape[0]:
        last = size - 1
        if entry > pool[last]:
            return size, size
    low, high = 0, last
    while low < high:
        middle = (low + high) >> 1
        if pool[middle] < entry:
            low = middle + 1
        else:
            high = middle
    for at in range(last, low, -1):
        pool[at] = pool[at - 1]
    pool[low] = entry
    return last + 1, low


@kernel
def best(pool: Any, state: Any, squared: Any, k: Any) -> Any:
    """Vertices and scores of the pool's first `k`, padded as FAISS pads: -1 and the worst float32."""
    ids = np.full(k, np.int64(-1))
    worst = np.finfo(np.float32).max
    scores = np.full(k, np.float32(worst if squared else -worst))
    for at in range(min(k, state[SIZE])):
        ids[at] = _vertex(pool[at])
        bits = pool[at] >> np.int64(32)
        if bits < 0:
            bits ^= np.int64(_MAGNITUDE)
        distance = np.int32(bits).view(np.float32)
        scores[at] = distance if squared else np.float32(0) - distance
    return ids, scores
