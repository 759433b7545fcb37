"""Heap: the events to come, by time; those of one time in the order in which they were made; compiled."""

from typing import Any

from pimsim.compiled import inlined, part
from pimsim.dimm_pim.state import ORDER, SIZE


@part
def push(s: Any, time: Any, event: Any, argument: Any) -> None:
    """Add an event to the heap, behind those of the same time."""
    heap, place = s.heap, s.scalars[SIZE]
    order = s.scalars[ORDER]
    s.scalars[SIZE] += 1
    s.scalars[ORDER] += 1
    while place > 0:
        above = (place - 1) >> 1
        if heap[above, 0] < time or (heap[above, 0] == time and heap[above, 1] < order):
            break
        for field in range(4):
            heap[place, field] = heap[above, field]
        place = above
    heap[place, 0], heap[place, 1], heap[place, 2], heap[place, 3] = time, order, event, argument


@inlined
def pop(s: Any) -> Any:
    """Take the next event out of the heap; returns its time, event and argument."""
    heap = s.heap
    time, event, argument = heap[0, 0], heap[0, 2], heap[0, 3]
    s.scalars[SIZE] -= 1
    size = s.scalars[SIZE]
    moved, order = heap[size, 0], heap[size, 1]
    place = 0
    while True:
        below = 2 * place + 1
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
            heap[place, field] = heap[below, field]
        place = below
    if place != size:
        for field in range(4):
            heap[place, field] = heap[size, field]
    return time, event, argument
