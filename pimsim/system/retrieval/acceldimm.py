"""AccelDimms: searches on DIMM-PIM devices, in the event model's times."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from pimsim.dimm_pim.device import DimmDevice, Link
from pimsim.dimm_pim.search import simulate_search
from pimsim.dimm_pim.traversal import Traversal
from pimsim.result import Bound, configuration_hash
from pimsim.system.described.config import SystemConfig
from pimsim.system.retrieval.drawn_searches import Point, moved, points, recorded, traversal
from pimsim.system.retrieval.protocol import Searches
from pimsim.system.workload.popularity import popularity

LADDER = 4  # sizes of batches that are simulated differ by this factor
KEPT = 256  # simulated batches that a process remembers: the runs of a sweep share them
# sums and links are the system's; standby goes on between searches, too
NOT_OF_A_SEARCH = ("total", "host_link", "dram_refresh", "dram_background")
_kept: OrderedDict[str, _Simulated] = OrderedDict()


@dataclass(frozen=True, slots=True)
class _Simulated:
    """Searches of one batch size on one device: seconds, and what they read."""

    first: np.ndarray
    again: np.ndarray
    hop: float
    distances: tuple[float, float]  # a query, mean: first and again
    energy: Mapping[str, float]  # nJ a distance
    bounds: tuple[Bound, ...]
    counts: Mapping[str, float]


@dataclass
class AccelDimms:
    """AccelDIMM devices, each with a shard and an index of its own; a search is done when the slowest device is.

    Times are the event model's. Queries are drawn from a sample of them, for each device on its own, with batches of
    the nearest larger size that was simulated; more than the sample go one batch after another. A batch of other
    queries comes before, so that the vertex caches are warm.
    """

    config: SystemConfig
    most: int  # queries that can be in hand
    idle_w: float = 0.0
    bounds: list[Bound] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    _sampled: dict[int, _Simulated] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._recorded = recorded(self.config)
        self._popularity = popularity(self.config.workload).fingerprint

    @property
    def _remembers(self) -> bool:
        """Whether a request's next search differs from its first."""
        return self.config.optimisations.r and self.config.workload.retrieve_every > 0

    def search(self, queries: int, again: bool, rng: np.random.Generator) -> Searches:
        sampled = self._of_size(queries)
        times = sampled.again if again else sampled.first
        devices = self.config.retrieval.devices
        distances = sampled.distances[again] * queries * devices
        # each query of the batch is one of the sample, on each device another
        if queries == 1:
            done = times[rng.integers(len(times), size=devices)].max(keepdims=True)
            return Searches(done, sampled.hop, sampled.energy, distances)
        order = rng.permuted(np.broadcast_to(np.arange(len(times)), (devices, len(times))), axis=1)
        repeats = -(-queries // len(times))
        waits = np.repeat(np.arange(repeats) * float(times.max()), len(times))
        done = (np.tile(times[order], repeats) + waits)[:, :queries].max(axis=0)
        return Searches(done, sampled.hop, sampled.energy, distances)

    def _of_size(self, queries: int) -> _Simulated:
        size = min(self.config.search.sampled, self.most)
        while size > 1 and -(-size // LADDER) >= queries:
            size = -(-size // LADDER)
        if size not in self._sampled:
            self._sampled[size] = self._simulated(size)
        return self._sampled[size]

    def _simulated(self, size: int) -> _Simulated:
        """Searches of a batch of `size`, out of what this process remembers if it has simulated the like."""
        config, workload = self.config, self.config.workload
        own = config.dimm
        device = replace(
            own,
            rpm=own.rpm if config.optimisations.r else replace(own.rpm, cache_bytes=0),
            link=Link(gbps=1e9, latency_ns=0.0),  # the system has its own
            workload=replace(own.workload, batch=size, admission="batch"),
        )
        drawn = (self._popularity, workload.seed)
        iterated = (workload.retrieve_every, workload.document_life_tokens) if self._remembers else ()
        key = configuration_hash(
            [
                device,
                replace(config.search, effort=1.0),
                config.retrieval.devices,
                size,
                drawn,
                iterated,
                _fingerprint(self._recorded),
            ]
        )
        if key not in _kept:
            _kept[key] = self._simulate(device, size)
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
        simulated = _kept[key]
        if not self.counts or size == min(config.search.sampled, self.most):
            self.bounds, self.counts = list(simulated.bounds), dict(simulated.counts)
        return simulated

    def _simulate(self, device: DimmDevice, size: int) -> _Simulated:
        searched = self._traversal(size)
        result = simulate_search(searched, device)
        times = result.latencies_us * 1e-6
        last = len(times) - size  # the first of the last batch: the second, or the one that retrieves again
        first, again = times[size : 2 * size], times[last:]
        of_query = np.diff(searched.first_vector[searched.first_hop]).astype(float)
        distances = (float(of_query[size : 2 * size].mean()), float(of_query[last:].mean()))
        hops = np.diff(searched.first_hop)[size : 2 * size]
        bounds = [replace(bound, name=f"sampled searches: {bound.name}") for bound in result.bounds if bound.limit]
        return _Simulated(
            first=first,
            again=again,
            hop=float((first / hops).max()),
            distances=distances,
            energy={
                part: nj / float(of_query.sum()) for part, nj in result.energy_nj.items() if part not in NOT_OF_A_SEARCH
            },
            bounds=tuple(bounds),
            counts={
                "vertex_cache_hit_ratio": float(result.cache()["hit_ratio"]),
                "search_first_s": float(first.max()),
                "search_again_s": float(again.max()),
                "distances_a_search": distances[0],
            },
        )

    def _traversal(self, size: int) -> Traversal:
        """The searches to simulate: a batch that warms the caches, the batch and, with `r` where requests retrieve
        again, the same requests' next.

        Without `r` a search knows nothing of the last one, and takes as long.
        """
        config, workload = self.config, self.config.workload
        iterative = self._remembers
        if self._recorded is not None:
            wanted = (3 if iterative else 2) * size
            return _repeated(self._recorded, wanted)
        warm, first = (points(config.search, workload, size, seed) for seed in (0, 10))
        queries: list[tuple[Point, Point | None]] = [(point, None) for point in (*warm, *first)]
        if iterative:
            nexts = moved(config.search, workload, first, 20)
            queries += list(zip(nexts, first, strict=True))
        shard = max(1, config.search.vertices // config.retrieval.devices)
        graph = config.dimm.graph
        return traversal(
            config.search, shard, config.dimm.vectors.dim, graph.neighbours, graph.ef, queries, workload.seed
        )


def _fingerprint(searches: Traversal | None) -> int:
    """A checksum of all that the searches read."""
    if searches is None:
        return 0
    checksum = zlib.crc32(f"{searches.shard} {searches.dim} {searches.neighbours}".encode())
    for part in (
        searches.first_hop,
        searches.list_vertex,
        searches.list_kind,
        searches.first_vector,
        searches.vertices,
    ):
        checksum = zlib.crc32(np.ascontiguousarray(part).tobytes(), checksum)
    return checksum


def _repeated(searches: Traversal, queries: int) -> Traversal:
    """The same searches over and over, up to `queries` of them."""
    times = -(-queries // len(searches.queries))
    whole, hops, vectors = len(searches.queries) * times, len(searches.list_vertex), len(searches.vertices)
    offsets = np.arange(times)[:, None]
    return Traversal(
        np.arange(whole),
        np.append((searches.first_hop[:-1] + offsets * hops).ravel(), times * hops),
        np.tile(searches.list_vertex, times),
        np.tile(searches.list_kind, times),
        np.append((searches.first_vector[:-1] + offsets * vectors).ravel(), times * vectors),
        np.tile(searches.vertices, times),
        searches.shard,
        searches.dim,
        searches.neighbours,
    ).first(queries)
