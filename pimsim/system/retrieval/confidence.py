"""Confidence: which results of a running search the host hands on, at each of its looks (HeterRAG, section 4.4).

The nearest vertices met so far stand in a result buffer, by distance. At each look the host asks where the newest of
them stand. One near the head: the search is in an early stage, and nothing is handed on. All near the tail: what stands
in front of the first of them is. What was handed on can be wrong: a vertex met later can push it back, or out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from pimsim.compiled import kernel, part


class HandedOn(NamedTuple):
    """What the host hands on of a batch of searches, in the order of its looks; int64 arrays.

    A row is an order of the nearest vertices of a search, from its look on; the last of each search is its result. Rows
    stand in the order of their looks, and among those of a look results come last. Vertices are named by their place
    among all that the search ever meets, the nearest 0.
    """

    search: np.ndarray  # [rows]
    order: np.ndarray  # [rows, most documents]: vertices
    counts: np.ndarray  # [rows]: how many of them there are
    looks: np.ndarray  # [looks at which something is handed on]: their numbers, from 1
    first: np.ndarray  # [looks + 1]: its first row
    documents: np.ndarray  # [looks]: vertices in its rows that were in none before, and are not there anyway
    results: np.ndarray  # [looks]: how many of its rows are results
    strangers: np.ndarray  # [vertices handed on that are not in the result, 2]: search and name, search by search


@dataclass(frozen=True, slots=True)
class Rule:
    """When a result is handed on (HeterRAG, section 4.4).

    `tail_from` is the share of the buffer behind which a vertex stands near the tail. `newest_share` is the share of
    the looks so far in which a vertex counts as new; at the look that first sees it, it is new in any case.
    """

    tail_from: float
    newest_share: float

    def handed_on(
        self, seen: np.ndarray, lasts: np.ndarray, documents: np.ndarray, there: np.ndarray, least_buffer: int
    ) -> HandedOn:
        """What is handed on of these searches. Before the result that is only what has a vertex that was not handed on
        before, and is not `there` anyway.

        `seen` is the look that first sees each vertex, int64 [searches, vertices]; a search has ended at its look of
        `lasts`, int64 [searches], and its result is 0 … `documents` − 1, int64 [searches]; `there` bool [searches, most
        documents]. A buffer has `least_buffer` entries, or as many as documents are wanted.
        """
        return HandedOn(*_handed_on(seen, lasts, documents, there, least_buffer, self.tail_from, self.newest_share))


def looks_that_see(shares: np.ndarray, durations: np.ndarray, interval: int) -> tuple[np.ndarray, np.ndarray]:
    """The looks, counted from 1, that first see what is met after `shares` of searches, int64 [searches, vertices]; and
    the last look of each search, int64 [searches].

    `durations` [searches] and `interval` are ps. What has a share above 1 is never met.
    """
    looks: tuple[np.ndarray, np.ndarray] = _looks_that_see(shares, durations, interval)
    return looks


def first_met(
    searches: int, vertices: int, *, buffer: int, approach: float, found_by: float, rng: np.random.Generator
) -> np.ndarray:
    """Drawn shares of a search after which it meets its nearest vertices, float64 [searches, vertices].

    They are uniform from `approach` on: to `found_by` for what ends in the buffer, and later the farther a vertex is,
    up to the search's end for the last of them.
    """
    begin, length = _meetings(vertices, buffer, approach, found_by)
    return np.asarray(begin + length * rng.random((searches, vertices)))


@lru_cache(maxsize=4)
def _meetings(vertices: int, buffer: int, approach: float, found_by: float) -> tuple[np.ndarray, np.ndarray]:
    """When each vertex can be met first, and for how long, as shares of a search, float64 [vertices]."""
    behind = np.maximum(np.arange(vertices) - (buffer - 1), 0) / max(1, vertices - buffer)
    until = found_by + (1 - found_by) * behind
    begin = np.minimum(approach, until)
    return begin, until - begin


@kernel
def _looks_that_see(shares: Any, durations: Any, interval: Any) -> Any:
    seen, last = np.empty(shares.shape, np.int64), np.empty(durations.shape, np.int64)
    for search in range(shares.shape[0]):
        last[search] = max(1, -(-durations[search] // interval))
        looks = durations[search] / interval
        for vertex in range(shares.shape[1]):
            seen[search, vertex] = max(1, math.ceil(min(shares[search, vertex], 2.0) * looks))
    return seen, last


@part
def _sorted_below(times: Any, last: Any) -> Any:
    """The times that are below the last, each once: faster than sorting where there are few looks."""
    marked = np.zeros(last, np.bool_)
    for time in times:
        if time < last:
            marked[time] = True
    return np.flatnonzero(marked)


@part
def _changes(
    seen: Any, last: Any, documents: Any, buffer: Any, tail_from: Any, newest_share: Any, looks: Any, counts: Any,
    orders: Any,
) -> Any:  # fmt: skip
    """Write the looks before the last at which what is handed on changes, and all that is handed on from then; returns
    how many.
    """
    vertices = seen.shape[0]
    # something can only change when a vertex comes, or is new no longer
    times = np.empty(2 * vertices, np.int64)
    for vertex in range(vertices):
        times[2 * vertex] = seen[vertex]
        left = seen[vertex] + 1
        while left < last:
            longer = seen[vertex] + max(1, math.floor(newest_share * left))
            if longer <= left:
                break
            left = longer
        times[2 * vertex + 1] = left
    if last <= 2 * vertices:
        times = _sorted_below(times, last)
    else:
        times.sort()
    order = np.empty(buffer, np.int64)
    held, changes, before = 0, 0, 0
    for time in times:
        if time >= last:
            break
        if time == before:
            continue
        before = time
        new = max(1, math.floor(newest_share * time))
        filled, first = 0, buffer
        for vertex in range(vertices):
            if seen[vertex] > time:
                continue
            if time - seen[vertex] < new and first == buffer:
                first = filled
                if first < tail_from * buffer:
                    break
            order[filled] = vertex
            filled += 1
            if filled == buffer:
                break
        if filled < buffer or first < tail_from * buffer:
            continue
        sure = min(first, documents)
        same = 0
        while same < sure and same < held and orders[changes - 1, same] == order[same]:
            same += 1
        if same == sure:
            continue  # it is on its way already
        looks[changes], counts[changes] = time, sure
        orders[changes, :sure] = order[:sure]
        held = sure
        changes += 1
    return changes


@kernel
def _handed_on(
    seen: Any, lasts: Any, documents: Any, there: Any, least_buffer: Any, tail_from: Any, newest_share: Any
) -> Any:
    """Compute the fields of HandedOn."""
    searches, vertices = seen.shape
    widest, most = there.shape[1], 2 * vertices + 1
    own_looks, own_counts = np.empty(most, np.int64), np.empty(most, np.int64)
    own_orders = np.empty((most, widest), np.int64)
    rows = searches * (vertices + 1)  # each but the results has a new vertex
    search, look, count, new = (np.empty(rows, np.int64), np.empty(rows, np.int64), np.empty(rows, np.int64),
                                np.empty(rows, np.int64))  # fmt: skip
    order = np.empty((rows, widest), np.int64)
    results = np.zeros(searches, np.int64)
    strangers = np.empty((searches * vertices, 2), np.int64)
    used, strange = 0, 0
    sent = np.empty(vertices, np.bool_)
    for one in range(searches):
        wanted = documents[one]
        sent[:] = False
        sent[:wanted] = there[one, :wanted]
        results[one] = wanted - sent[:wanted].sum()
        if not results[one]:
            continue  # all of it stands in the buffer from the start
        changes = _changes(
            seen[one], lasts[one], wanted, max(least_buffer, wanted), tail_from, newest_share, own_looks, own_counts,
            own_orders,
        )  # fmt: skip
        for change in range(changes):
            fresh = 0
            for vertex in own_orders[change, : own_counts[change]]:
                if sent[vertex]:
                    continue
                sent[vertex] = True
                fresh += 1
                if vertex < wanted:
                    results[one] -= 1
                else:
                    strangers[strange, 0], strangers[strange, 1] = one, vertex
                    strange += 1
            if fresh:
                search[used], look[used], count[used], new[used] = one, own_looks[change], own_counts[change], fresh
                order[used] = own_orders[change]
                used += 1
    before = used
    for one in range(searches):
        search[used], look[used], count[used], new[used] = one, lasts[one], documents[one], results[one]
        order[used] = np.arange(widest)
        used += 1
    sorted_rows = np.argsort(look[:used], kind="mergesort")
    looks, first = np.empty(used, np.int64), np.empty(used + 1, np.int64)
    sums = np.zeros((2, used), np.int64)
    groups = 0
    for place in range(used):
        row = sorted_rows[place]
        if not groups or look[row] != looks[groups - 1]:
            looks[groups], first[groups] = look[row], place
            groups += 1
        sums[0, groups - 1] += new[row]
        sums[1, groups - 1] += row >= before
    first[groups] = used
    return (search[sorted_rows], order[sorted_rows], count[sorted_rows], looks[:groups], first[: groups + 1],
            sums[0, :groups], sums[1, :groups], strangers[:strange])  # fmt: skip
