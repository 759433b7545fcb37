"""Confidence: which results of a running search the host hands on, look by look (HeterRAG, section 4.4).

The nearest vertices met so far stand in a result buffer, by distance. At each look the host asks where the newest of
them stand. One near the head: the search is in an early stage, and nothing is handed on. All near the tail: what stands
in front of the first of them is. What was handed on can be wrong: a vertex met later can push it back, or out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pimsim.compiled import kernel


@dataclass(frozen=True, slots=True)
class Rule:
    """When a result is handed on.

    `tail_from`: share of the buffer behind which a vertex stands near the tail. `newest_share`: share of the looks so
    far in which a vertex counts as new; it is new at the look that first sees it in any case.
    """

    tail_from: float
    newest_share: float

    def handed_on(
        self, seen: np.ndarray, last: int, documents: int, buffer: int
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Looks before the `last` at which what is handed on changes, and all that is handed on from then on.

        Vertices are named by their place among all that the search ever meets, the nearest 0; `seen` is the look that
        first sees each, int64 [vertices]. The search has ended at the `last` look. `documents` of the `buffer`'s
        entries are wanted, and it hands on no more; the result is 0 … documents − 1.
        """
        most = 2 * len(seen) + 1
        looks, counts = np.empty(most, np.int64), np.empty(most, np.int64)
        orders = np.empty((most, documents), np.int64)
        found = _handed_on(seen, last, documents, buffer, self.tail_from, self.newest_share, looks, counts, orders)
        for at in range(found):
            yield int(looks[at]), tuple(orders[at, : counts[at]].tolist())

    def of_batch(
        self, seen: np.ndarray, lasts: np.ndarray, documents: np.ndarray, there: np.ndarray, least_buffer: int
    ) -> list[tuple[int, int, tuple[int, ...]]]:
        """What is handed on of several searches: the search, the look, and the order; only where it has a document that
        has not been handed on before, and is not `there` anyway.

        `seen` [searches, vertices], `lasts` and `documents` [searches], `there` [searches, most documents]; a buffer
        has `least_buffer` entries, or as many as documents are wanted.
        """
        searches, vertices = seen.shape
        rows = searches * vertices  # each has a new document
        found, looks, counts = (np.empty(rows, np.int64) for _ in range(3))
        orders = np.empty((rows, there.shape[1]), np.int64)
        rule = (least_buffer, self.tail_from, self.newest_share)
        used = _of_batch(seen, lasts, documents, there, *rule, found, looks, counts, orders)
        told = zip(found[:used].tolist(), looks[:used].tolist(), counts[:used].tolist(), strict=True)
        return [
            (search, look, tuple(order[:count]))
            for (search, look, count), order in zip(told, orders[:used].tolist(), strict=True)
        ]


def looks_that_see(shares: np.ndarray, durations: np.ndarray, interval: int) -> tuple[np.ndarray, np.ndarray]:
    """The looks, counted from 1, that first see what is met after these shares of searches, int64 [searches, vertices];
    and the last look of each search.

    `durations` [searches] and `interval` in ps. A share above 1 is never met.
    """
    last = np.maximum(1, -(-durations // interval))
    seen = np.ceil(np.minimum(shares, 2.0) * (durations / interval)[:, None])
    return np.maximum(seen, 1).astype(np.int64), last


def first_met(
    searches: int, vertices: int, *, buffer: int, approach: float, found_by: float, rng: np.random.Generator
) -> np.ndarray:
    """Drawn shares of a search after which it meets its nearest vertices, [searches, vertices].

    Uniform from the `approach` on; to `found_by` for what ends in the buffer, and later the farther a vertex is, up to
    the search's end for the last of them.
    """
    behind = np.maximum(np.arange(vertices) - (buffer - 1), 0) / max(1, vertices - buffer)
    until = found_by + (1 - found_by) * behind
    begin = np.minimum(approach, until)
    return np.asarray(begin + (until - begin) * rng.random((searches, vertices)))


def window(look: int, newest_share: float) -> int:
    """Looks, this one included, in which a vertex that is seen for the first time counts as new."""
    return max(1, math.floor(newest_share * look))


@kernel
def _sorted_below(times: Any, last: Any) -> Any:
    """Those of the times that are below the last, each once: faster than sorting where there are few looks."""
    marked = np.zeros(last, np.bool_)
    for time in times:
        if time < last:
            marked[time] = True
    return np.flatnonzero(marked)


@kernel
def _handed_on(
    seen: Any, last: Any, documents: Any, buffer: Any, tail_from: Any, newest_share: Any, looks: Any, counts: Any,
    orders: Any,
) -> Any:  # fmt: skip
    """Returns how many changes there are."""
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
    held, found, before = 0, 0, 0
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
        while same < sure and same < held and orders[found - 1, same] == order[same]:
            same += 1
        if same == sure:
            continue  # it is on its way already
        looks[found], counts[found] = time, sure
        orders[found, :sure] = order[:sure]
        held = sure
        found += 1
    return found


@kernel
def _of_batch(
    seen: Any, lasts: Any, documents: Any, there: Any, least_buffer: Any, tail_from: Any, newest_share: Any, found: Any,
    looks: Any, counts: Any, orders: Any,
) -> Any:  # fmt: skip
    """Returns how many rows there are."""
    vertices = seen.shape[1]
    most = 2 * vertices + 1
    own_looks, own_counts = np.empty(most, np.int64), np.empty(most, np.int64)
    own_orders = np.empty((most, orders.shape[1]), np.int64)
    used = 0
    for search in range(seen.shape[0]):
        count = documents[search]
        if there[search, :count].all():
            continue  # all of it stands in the buffer from the start
        sent = np.zeros(vertices, np.bool_)
        for at in range(count):
            sent[at] = there[search, at]
        changes = _handed_on(
            seen[search], lasts[search], count, max(least_buffer, count), tail_from, newest_share, own_looks,
            own_counts, own_orders,
        )  # fmt: skip
        for change in range(changes):
            new = False
            for at in own_orders[change, : own_counts[change]]:
                new = new or not sent[at]
                sent[at] = True
            if new:
                found[used], looks[used], counts[used] = search, own_looks[change], own_counts[change]
                orders[used] = own_orders[change]
                used += 1
    return used
