"""Drawn searches: recorded traversals, or those drawn from the stated distribution.

Vertices lie on a ring; a graph's level `l` holds every 32nd of the level below, as HNSW's do. A query has a point of
the ring, that of a document drawn by popularity. On its way it compares vertices near the point on each upper level,
then on the lowest, about half of those that are nearest: queries for one document meet the same vertices, and all
queries meet the few on top. A search that begins with the last result list skips the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from pimsim.dimm_pim.traversal import LOWEST, NO_LIST, UPPER, Traversal
from pimsim.errors import WorkloadError
from pimsim.system.described.config import Search, SystemConfig, Workload
from pimsim.system.retrieval.confidence import first_met
from pimsim.system.workload.popularity import popularity

WINDOW = 2  # vertices near the point, to those compared
LEVEL_RATIO = 32  # HNSW's M: one vertex of this many is on the next level, too


@dataclass(frozen=True, slots=True)
class Point:
    """Where a query is, as a share of the ring, and how many hops its search takes."""

    place: float
    hops: int


def recorded(config: SystemConfig) -> Traversal | None:
    """The workload's recorded searches, or None.

    TraceError for a file that cannot be read, WorkloadError for vectors of another size than the device's.
    """
    if not config.workload.traversal_file:
        return None
    file = Path(config.workload.traversal_file)
    try:
        version = file.stat()
    except OSError:
        searches = Traversal.read(file)  # says what is wrong
    else:
        searches = _read(file, version.st_mtime_ns, version.st_size)
    dim = config.dimm.vectors.dim
    if searches.dim not in (None, dim):
        raise WorkloadError(
            f"{config.workload.traversal_file}: its vectors have {searches.dim} elements, the device's {dim}: "
            f"set dimm.vectors.dim to {searches.dim}"
        )
    return searches


@lru_cache(maxsize=4)
def _read(file: Path, *_version: int) -> Traversal:
    """A file that the runs of a sweep share; another version of it is read anew."""
    return Traversal.read(file)


class Met:
    """When searches meet their nearest vertices: as recorded where the recording has their ranks, else drawn."""

    def __init__(self, config: SystemConfig, documents: int) -> None:
        """`documents`: the most that a request asks for."""
        self._search = config.search
        self._buffer = max(config.dimm.graph.k, documents)
        self.vertices = max(config.dimm.graph.ef, self._buffer)
        searches = recorded(config)
        self._recorded = None if searches is None or searches.ranks is None else searches.met(self.vertices)

    def drawn(self, searches: int, rng: np.random.Generator) -> np.ndarray:
        """Shares of a search after which it meets each vertex, the nearest first, float64 [searches, vertices].

        Shares above 1 stand for what is never met.
        """
        if self._recorded is not None:
            return np.asarray(self._recorded[rng.integers(len(self._recorded), size=searches)])
        search = self._search
        return first_met(
            searches,
            self.vertices,
            buffer=self._buffer,
            approach=search.approach,
            found_by=search.found_by,
            rng=rng,
        )


def points(search: Search, workload: Workload, count: int, seed: int) -> list[Point]:
    """Points of `count` queries, drawn by the documents' popularity."""
    rng = np.random.default_rng([workload.seed, 2, seed])
    shares = popularity(workload).shares
    documents = rng.choice(len(shares), count, p=shares)
    factors = np.exp(rng.normal(0, search.hops_spread, count) - search.hops_spread**2 / 2)
    golden = (math.sqrt(5) - 1) / 2  # scatters the documents evenly
    return [
        Point(float(document * golden % 1), max(2, round(search.hops * factor)))
        for document, factor in zip(documents, factors, strict=True)
    ]


def moved(search: Search, workload: Workload, before: list[Point], seed: int) -> list[Point]:
    """Points of the same requests' next queries: a query has moved on as often as a document changes."""
    rng = np.random.default_rng([workload.seed, 3, seed])
    kept = math.exp(-workload.retrieve_every / workload.document_life_tokens)
    fresh = points(search, workload, len(before), seed + 1)
    return [old if rng.random() < kept else new for old, new in zip(before, fresh, strict=True)]


def traversal(
    search: Search, shard: int, dim: int, neighbours: int, ef: int, queries: list[tuple[Point, Point | None]], seed: int
) -> Traversal:
    """Searches for these points; beside a point stands the one before it, if the search begins with that one's
    results.
    """
    rng = np.random.default_rng([4, seed])
    spread = _coprime(shard)
    first_hop, list_vertex, list_kind, first_vector = [0], [], [], [0]
    vectors: list[np.ndarray] = []
    compared = 0
    for point, before in queries:
        for kind, read in _hops(search, shard, ef, point, before, rng):
            last = vectors[-1] if vectors else read
            list_vertex.append(int(last[0]) * spread % shard if kind else -1)  # they come in any order
            list_kind.append(kind)
            vectors.append(read)
            compared += len(read)
            first_vector.append(compared)
        first_hop.append(len(list_kind))
    return Traversal(
        queries=np.arange(len(queries)),
        first_hop=np.array(first_hop, np.int64),
        list_vertex=np.array(list_vertex, np.int64),
        list_kind=np.array(list_kind, np.int64),
        first_vector=np.array(first_vector, np.int64),
        vertices=np.concatenate(vectors) * spread % shard,
        shard=shard,
        dim=dim,
        neighbours=neighbours,
    )


def approach_hops(search: Search, point: Point) -> int:
    """Hops before a search is in the neighbourhood of its result."""
    return min(point.hops - 1, round(search.approach * point.hops))


def _hops(
    search: Search, shard: int, ef: int, point: Point, before: Point | None, rng: np.random.Generator
) -> list[tuple[int, np.ndarray]]:
    way = approach_hops(search, point)
    width = search.vectors_a_hop
    drawn: list[tuple[int, np.ndarray]] = []
    if before is not None:
        drawn.append((NO_LIST, _near(shard, 1, before.place, min(ef, shard // WINDOW), rng)))
        if before.place != point.place:  # from the old results to the new: on the lowest level
            drawn += _cut(_near(shard, 1, (before.place + point.place) / 2, way * width, rng), width, LOWEST)
    else:
        levels = max(1, int(math.log(shard, LEVEL_RATIO)))
        drawn.append((NO_LIST, np.zeros(1, np.int64)))
        for level in range(levels, 0, -1):
            step = LEVEL_RATIO**level
            hops = way // levels + (level <= way % levels)
            drawn += _cut(_near(shard, step, point.place, hops * width, rng), width, UPPER)
    hops_left = point.hops - way
    return drawn + _cut(_near(shard, 1, point.place, hops_left * width, rng), width, LOWEST)


def _near(shard: int, step: int, place: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` vertices of a level (or all it has) near a place, in any order."""
    level = max(1, shard // step)
    count = min(count, level)
    window = min(level, WINDOW * count)
    first = int(place * level) - window // 2
    chosen = rng.permutation(window)[:count]
    return (first + chosen) % level * step


def _cut(vertices: np.ndarray, width: int, kind: int) -> list[tuple[int, np.ndarray]]:
    return [(kind, vertices[begin : begin + width]) for begin in range(0, len(vertices), width)]


def _coprime(shard: int) -> int:
    """A factor that scatters neighbours over the ranks, and never maps two vertices to one."""
    factor = int(shard * 0.6180339887) | 1
    while math.gcd(factor, shard) != 1:
        factor += 2
    return factor
