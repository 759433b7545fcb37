"""Heap: the events to come, in the order of their times, and of their making where those are equal; compiled."""

from typing import Any

from pimsim.compiled import inlined, part
from pimsim.dimm_pim.state import ORDER, SIZE


@part
def push(s: Any, time: Any, event: Any, argument: Any) -> None:
    """Add an event to the heap, behind those of the same time."""
    heap, at = s.heap, s.scalars[SIZE]
    order = s.scalars[ORDER]
    s.scalars[SIZE] += 1
    s.scalars[ORDER] += 1
    while at > 0:
        above = (at - 1) >> 1
        if heap[above, 0] < time or (heap[above, 0] == time and heap[above, 1] < order):
            break
        for field in range(4):
            heap[at, field] = heap[above, field]
        at = above
    heap[at, 0], heap[at, 1], heap[at, 2], heap[at, 3] = time, order, event, argument


@inlined
def pop(s: Any) -> Any:
    heap = s.heap
    time, event, argument = heap[0, 0], heap[0, 2], heap[0, 3]
    s.scalars[SIZE] -= 1
    size = s.scalars[SIZE]
    moved, order = heap[size, 0], heap[size, 1]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        other = below + 1
        if other < size and (
            heap[other, 0] < heap[below, 0] or (heap[other, 0] == heap[below, 0] and heap[other, 1] < heap[below, 1])
        ):
            below = other
        if moved < heap[below, 0] or (moved == heap[below, 0] and order < heap[below, 1]):
            break
        for field in range(4):
            heap[at, field] = heap[below, field]
        at = below
    if at != size:
        for field in range(4):
            heap[at, field] = heap[size, field]
    return time, event, argument
