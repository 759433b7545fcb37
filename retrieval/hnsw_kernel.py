"""HNSW kernel: best-first traversal of a FAISS graph, compiled, and resumable after any number of vertices.

The pool holds the best vertices seen, at most `ef` of them, sorted. An entry is one int64; entries compare as numbers:

    bits 63..32  distance, as an integer of the same order      bits 31..1  vertex      bit 0  expanded

So vertices of equal distance are in the order of their numbers, and a traversal depends on its graph and query alone.
A distance is a squared distance or a negated inner product; smaller is better.
"""

from typing import Any

import numpy as np
from numba import njit

from retrieval.compiled import kernel

# places in a traversal's state, int64 [STATE]; the pool has SIZE entries, and those before CURSOR are expanded
SIZE, CURSOR, HOPS, VISITS, STAMP = range(5)
STATE = 5
_LOW = 0xFFFFFFFF
_MAGNITUDE = 0x7FFFFFFF


@njit(fastmath=True)
def _four_inner_products(query: Any, vectors: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    # together, because their reads from memory then overlap: a third faster than one after another
    total_a = total_b = total_c = total_d = np.float32(0)
    for axis in range(query.shape[0]):
        value = query[axis]
        total_a += value * vectors[a, axis]
        total_b += value * vectors[b, axis]
        total_c += value * vectors[c, axis]
        total_d += value * vectors[d, axis]
    return total_a, total_b, total_c, total_d


@njit(fastmath=True)
def _four_squared_distances(query: Any, vectors: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    total_a = total_b = total_c = total_d = np.float32(0)
    for axis in range(query.shape[0]):
        value = query[axis]
        from_a, from_b = value - vectors[a, axis], value - vectors[b, axis]
        from_c, from_d = value - vectors[c, axis], value - vectors[d, axis]
        total_a += from_a * from_a
        total_b += from_b * from_b
        total_c += from_c * from_c
        total_d += from_d * from_d
    return total_a, total_b, total_c, total_d


@njit
def _compare(query: Any, vectors: Any, squared: Any, rows: Any, count: Any, distances: Any) -> None:
    """Put the distances of the first `count` of `rows` into `distances`.

    Both arrays have room for the next multiple of four: the last four may repeat a row, so that every distance is
    summed in the same order and equal vectors get equal distances.
    """
    zero = np.float32(0)
    for place in range(count, count + -count % 4):
        rows[place] = rows[count - 1]
    for first in range(0, count, 4):
        four = rows[first], rows[first + 1], rows[first + 2], rows[first + 3]
        if squared:
            a, b, c, d = _four_squared_distances(query, vectors, *four)
        else:
            a, b, c, d = _four_inner_products(query, vectors, *four)
            # subtracted, not negated, so that 0 stays +0, whose bits are in the right order
            a, b, c, d = zero - a, zero - b, zero - c, zero - d
        distances[first], distances[first + 1], distances[first + 2], distances[first + 3] = a, b, c, d


@njit
def _entry(distance: Any, vertex: Any) -> Any:
    bits = np.int64(np.float32(distance).view(np.int32))
    if bits < 0:  # IEEE 754 has sign and magnitude, so the bits of negative numbers are in reverse order
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
    """Descend the upper levels, to the vertex nearest to the query on each, and begin the pool with the last one.

    `query` is float32 [dim], `vectors` float32 [count, dim]; `squared` chooses squared distances. The neighbours of
    `vertex` on `level` are `neighbours[offsets[vertex] + spans[level] : offsets[vertex] + spans[level + 1]]`, int32,
    ended by -1 if there are fewer. `seen` (int32 [count]) holds for each vertex the stamp of the level that saw it
    last, and `state[STAMP]` the last stamp used; each level takes the next. `visits` and `hops` record the traversal,
    as `VisitLog` describes it, unless they are empty.
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
            for place in range(count):
                if recorded:
                    visits[0, state[VISITS] + place], visits[1, state[VISITS] + place] = fresh[place], level
                if distances[place] < shortest:
                    nearest, shortest, moved = fresh[place], distances[place], True
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
    """Expand up to `budget` more vertices on the lowest level, nearest first; returns the number expanded.

    It is less than `budget` once the whole pool is expanded: no other vertex could lead to a better one, and further
    calls return 0. The arguments are those of `start`.
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
        for number in range(count):
            size, place = _insert(pool, size, _entry(distances[number], fresh[number]))
            lowest = min(lowest, place)
        cursor = lowest
        while cursor < size and pool[cursor] & np.int64(1):
            cursor += 1
        if recorded:
            for number in range(count):
                visits[0, state[VISITS] + number], visits[1, state[VISITS] + number] = fresh[number], 0
            hops[0, state[HOPS]], hops[1, state[HOPS]], hops[2, state[HOPS]] = vertex, 0, state[VISITS] + count
        state[VISITS] += count
        state[HOPS] += 1
    state[SIZE], state[CURSOR] = size, cursor
    return expanded


@njit
def _gather(neighbours: Any, first: Any, last: Any, seen: Any, stamp: Any, fresh: Any) -> Any:
    """Put the neighbours that were not yet seen on this level into `fresh`; returns their number.

    Vertices seen before are already compared: above the lowest level they are no nearer than the nearest.
    """
    count = 0
    for place in range(first, last):
        vertex = np.int64(neighbours[place])
        if vertex < 0:
            break
        if seen[vertex] != stamp:
            seen[vertex] = stamp
            fresh[count] = vertex
            count += 1
    return count


@njit
def _insert(pool: Any, size: Any, entry: Any) -> Any:
    """Insert an entry into the sorted pool, dropping the last one if it is full; returns size and the entry's place.

    An entry that would come after all of a full pool is not inserted; its place is then the one after the last.
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
    for place in range(last, low, -1):
        pool[place] = pool[place - 1]
    pool[low] = entry
    return last + 1, low


@kernel
def best(pool: Any, state: Any, squared: Any, k: Any) -> Any:
    """Vertices (int64 [k]) and scores (float32 [k]) of the pool's first `k`, padded as FAISS does: -1 and the worst."""
    ids = np.full(k, np.int64(-1))
    worst = np.finfo(np.float32).max
    scores = np.full(k, np.float32(worst if squared else -worst))
    for place in range(min(k, state[SIZE])):
        ids[place] = _vertex(pool[place])
        bits = pool[place] >> np.int64(32)
        if bits < 0:
            bits ^= np.int64(_MAGNITUDE)
        distance = np.int32(bits).view(np.float32)
        scores[place] = distance if squared else np.float32(0) - distance
    return ids, scores
