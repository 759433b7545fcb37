"""Point: one simulation of a sweep, and the chunks in which points are handed to workers and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pimsim.errors import PimsimError
from pimsim.sweep.design import Sweep
from pimsim.sweep.table import ERROR, POINT, Row, flat
from pimsim.sweep.target import Target, target

LARGEST_CHUNK = 64
CHUNKS = 128  # of a sweep, before they grow: what a kill loses is a chunk a worker


@dataclass(frozen=True, slots=True)
class Chunk:
    """Points whose rows make one part of the results. It travels to other processes."""

    number: int
    target: str
    base: Mapping[str, Any]
    names: tuple[str, ...]
    first: int  # number of its first point
    points: Sequence[tuple[Any, ...]]


def chunks(sweep: Sweep) -> list[Chunk]:
    """All points, in order; how they are cut depends on the sweep alone."""
    points = sweep.points()
    size = max(1, min(LARGEST_CHUNK, len(points) // CHUNKS))
    return [
        Chunk(begin // size, sweep.target, sweep.base, sweep.names, begin, points[begin : begin + size])
        for begin in range(0, len(points), size)
    ]


def simulate_chunk(chunk: Chunk) -> tuple[int, list[Row]]:
    """Simulate all points of a chunk; returns its number and a row for each point. A point that fails has the error in
    its row.
    """
    simulator = target(chunk.target)
    return chunk.number, [
        row(simulator, number, chunk.base, dict(zip(chunk.names, values, strict=True)))
        for number, values in enumerate(chunk.points, chunk.first)
    ]


def row(target: Target, number: int, base: Mapping[str, Any], values: Mapping[str, Any]) -> Row:
    """The row of a point: its number, its axes' values, the error or None, and the result; a result named as an axis is
    `result.`NAME.
    """
    columns: Row = {POINT: number, **values, ERROR: None}
    try:
        result = target.prepare({**base, **values})()
        return columns | {f"result.{name}" if name in columns else name: value for name, value in flat(result)}
    except PimsimError as error:
        return columns | {ERROR: str(error)}
    except Exception as error:  # a defect at one point must not cost the others
        return columns | {ERROR: f"{type(error).__name__}: {error}"}
