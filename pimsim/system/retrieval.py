"""Retrieval: how long searches take, and what they cost, on an AccelDIMM, a CPU, HBM behind a link, or UPMEM's DPUs."""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from pimsim.dimm_pim.device import DimmDevice, Link
from pimsim.dimm_pim.search import simulate_search
from pimsim.dimm_pim.traversal import Traversal
from pimsim.result import Bound, configuration_hash
from pimsim.system.config import SystemConfig
from pimsim.system.searches import Point, moved, points, traversal

LADDER = 4  # sizes of batches that are simulated differ by this factor
KEPT = 256  # simulated batches that a process remembers: the runs of a sweep share them
_kept: OrderedDict[str, _Simulated] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Searches:
    """A batch of searches on all devices."""

    done: np.ndarray  # s from when the queries are there, float64 [queries]; of the slowest device
    hop: float  # s of one hop
    energy: Mapping[str, float]  # nJ by part


class Retriever(Protocol):
    """What searches. `bounds` and `counts` are for the report, and complete after the last search."""

    idle_w: float  # while it does not search; beside the energy of its searches
    bounds: list[Bound]
    counts: dict[str, float]

    def search(self, queries: int, again: bool, rng: np.random.Generator) -> Searches:
        """So many searches at once; `again`: their requests have retrieved before."""


def search(
    retriever: Retriever, effort: float, queries: int, running: int, again: bool, rng: np.random.Generator
) -> Searches:
    """So many searches beside others that are `running`: each takes as long as in a batch of all of them."""
    found = retriever.search(queries + running, again, rng)
    share = effort * queries / (queries + running)
    return Searches(found.done[:queries] * effort, found.hop, {part: nj * share for part, nj in found.energy.items()})


def retriever(config: SystemConfig) -> Retriever:
    """Of the system. PimsimError for a traversal that cannot be."""
    kinds = {"acceldimm": AccelDimms, "cpu": Cpu, "hbm": HbmBehindLink, "upmem": Dpus}
    made: Retriever = kinds[config.retrieval.engine](config)
    return made


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
    """A shard and its own index on each device; a search is done when the slowest device is. Times of the event model.

    Queries are drawn from a sample of them, for each device on its own, with batches of the nearest larger size that
    was simulated. A batch of other queries comes before, so that the vertex caches are warm.
    """

    config: SystemConfig
    idle_w: float = 0.0
    bounds: list[Bound] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    _sampled: dict[int, _Simulated] = field(default_factory=dict)

    def __post_init__(self) -> None:
        file = self.config.workload.traversal_file
        self._recorded = Traversal.read(Path(file)) if file else None

    @property
    def _remembers(self) -> bool:
        """Whether a request's next search differs from its first."""
        return self.config.optimisations.r and self.config.workload.retrieve_every > 0

    def search(self, queries: int, again: bool, rng: np.random.Generator) -> Searches:
        sampled = self._of_size(queries)
        times = sampled.again if again else sampled.first
        devices = self.config.retrieval.devices
        # each query of the batch is one of the sample, on each device another
        order = rng.permuted(np.broadcast_to(np.arange(len(times)), (devices, len(times))), axis=1)
        repeats = -(-queries // len(times))
        done = np.tile(times[order], repeats)[:, :queries].max(axis=0)
        distances = sampled.distances[again] * queries * devices
        return Searches(done, sampled.hop, {part: nj * distances for part, nj in sampled.energy.items()})

    def _of_size(self, queries: int) -> _Simulated:
        most = min(self.config.search.sampled, self.config.workload.batch)
        size = most
        while size > 1 and -(-size // LADDER) >= queries:
            size = -(-size // LADDER)
        if size not in self._sampled:
            self._sampled[size] = self._simulated(size)
        return self._sampled[size]

    def _simulated(self, size: int) -> _Simulated:
        """Out of what this process remembers, if it has simulated the like."""
        config, stated = self.config, self.config.workload
        own = config.dimm
        device = replace(
            own,
            rpm=own.rpm if config.optimisations.r else replace(own.rpm, cache_bytes=0),
            link=Link(gbps=1e9, latency_ns=0.0),  # the system has its own
            workload=replace(own.workload, batch=size, admission="batch"),
        )
        drawn = (stated.popular_documents, stated.popularity_offset, stated.popularity_exponent, stated.seed)
        iterated = (stated.retrieve_every, stated.document_life_tokens) if self._remembers else ()
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
        found = _kept[key]
        if size == min(config.search.sampled, stated.batch):
            self.bounds, self.counts = list(found.bounds), dict(found.counts)
        return found

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
                part: nj / float(of_query.sum())
                for part, nj in result.energy_nj.items()
                if part not in ("total", "host_link")
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
        """A batch that warms the caches, one, and with `r`, where requests retrieve again, the same requests' next.

        Without `r` a search knows nothing of the last one, and takes as long.
        """
        config, stated = self.config, self.config.workload
        iterative = self._remembers
        recorded = self._recorded
        if recorded is not None:
            wanted = (3 if iterative else 2) * size
            return recorded.first(wanted) if len(recorded.queries) >= wanted else _repeated(recorded, wanted)
        warm, first = (points(config.search, stated, size, seed) for seed in (0, 10))
        queries: list[tuple[Point, Point | None]] = [(point, None) for point in (*warm, *first)]
        if iterative:
            nexts = moved(config.search, stated, first, 20)
            queries += list(zip(nexts, first, strict=True))
        shard = max(1, config.search.vertices // config.retrieval.devices)
        graph = config.dimm.graph
        return traversal(
            config.search, shard, config.dimm.vectors.dim, graph.neighbours, graph.ef, queries, stated.seed
        )


def _fingerprint(recorded: Traversal | None) -> int:
    """Of all that the searches read."""
    if recorded is None:
        return 0
    found = zlib.crc32(f"{recorded.shard} {recorded.dim} {recorded.neighbours}".encode())
    for part in (
        recorded.first_hop,
        recorded.list_vertex,
        recorded.list_kind,
        recorded.first_vector,
        recorded.vertices,
    ):
        found = zlib.crc32(np.ascontiguousarray(part).tobytes(), found)
    return found


def _repeated(recorded: Traversal, queries: int) -> Traversal:
    """The recorded searches over and over, until there are enough."""
    times = -(-queries // len(recorded.queries))
    whole, hops, vectors = len(recorded.queries) * times, len(recorded.list_vertex), len(recorded.vertices)
    offsets = np.arange(times)[:, None]
    return Traversal(
        np.arange(whole),
        np.append((recorded.first_hop[:-1] + offsets * hops).ravel(), times * hops),
        np.tile(recorded.list_vertex, times),
        np.tile(recorded.list_kind, times),
        np.append((recorded.first_vector[:-1] + offsets * vectors).ravel(), times * vectors),
        np.tile(recorded.vertices, times),
        recorded.shard,
        recorded.dim,
        recorded.neighbours,
    ).first(queries)


@dataclass
class _Whole:
    """What searches the whole index at once: every query's hops are drawn from the same distribution."""

    config: SystemConfig
    idle_w: float = 0.0
    bounds: list[Bound] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stated = self.config.workload
        if stated.traversal_file:
            recorded = Traversal.read(Path(stated.traversal_file))
            self._hops = np.diff(recorded.first_hop)
            self._distances = np.diff(recorded.first_vector[recorded.first_hop])
        else:
            drawn = points(self.config.search, stated, self.config.search.sampled, 10)
            self._hops = np.array([point.hops for point in drawn])
            self._distances = self._hops * self.config.search.vectors_a_hop
        self.counts["distances_a_search"] = float(self._distances.mean())

    def _drawn(self, queries: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Hops and distances of so many queries."""
        chosen = rng.integers(len(self._hops), size=queries)
        return self._hops[chosen], self._distances[chosen]

    @property
    def _vector_bytes(self) -> int:
        return self.config.dimm.vectors.bytes

    def _read_nj(self, distances: float) -> dict[str, float]:
        """Of ordinary DIMMs: a row and a vector's bursts for each distance, and the way off the DIMM."""
        device = self.config.dimm
        bursts = distances * device.vector_bursts
        memory = device.memory_energy
        return {
            "dram_activate": memory["activate_precharge"].nj(distances),
            "dram_read": memory["read"].nj(bursts),
            "channel": device.energy["channel_io"].nj(8 * distances * self._vector_bytes),
        }


class Cpu(_Whole):
    """HNSW on a CPU's cores, a query each: bound by the lines a core can wait for, then by the memory's channels."""

    def search(self, queries: int, again: bool, rng: np.random.Generator) -> Searches:  # noqa: ARG002
        cpu = self.config.cpu
        hops, distances = self._drawn(queries, rng)
        size = distances * self._vector_bytes + hops * 2 * self.config.dimm.graph.neighbours * 4
        of_core = cpu.fill_buffers * 64 / cpu.latency_ns  # GB/s: Little's law
        of_memory = cpu.peak_gbps * cpu.random_share
        done = np.zeros(queries)
        ends = [0.0] * cpu.cores
        rate = min(of_core, of_memory / min(queries, cpu.cores))
        for at in range(queries):
            core = min(range(cpu.cores), key=lambda core: (ends[core], core))
            ends[core] += float(size[at]) / (rate * 1e9)
            done[at] = ends[core]
        watts = max(0.0, cpu.watts - self.config.host.idle_w)  # beside what the host takes anyway
        energy = {"cpu": watts * float(done.max()) * 1e9, **self._read_nj(float(distances.sum()))}
        return Searches(done, float((done / hops).mean()), energy)


class HbmBehindLink(_Whole):
    """NaiveHBM: ordinary DIMMs hold the vectors, and each comes over the link to the HBM device that compares it."""

    def search(self, queries: int, again: bool, rng: np.random.Generator) -> Searches:  # noqa: ARG002
        config = self.config
        hops, distances = self._drawn(queries, rng)
        size = distances * float(self._vector_bytes)
        dram = config.dimm.standard
        hop = (2 * config.link.latency_ns + dram.ns(dram.timing.tRCD + dram.timing.tCL)) * 1e-9
        # the link is shared in equal parts: a query waits for what shorter ones moved, and for as much of longer ones
        order = np.argsort(size, kind="stable")
        shared = np.zeros(queries)
        moved_bytes, before, left = 0.0, 0.0, queries
        for at in order:
            moved_bytes += (size[at] - before) * left
            before, left = size[at], left - 1
            shared[at] = moved_bytes / (config.link.gbps * config.retrieval.devices * 1e9)
        done = np.maximum(shared, hops * hop + size / (config.link.gbps * 1e9))
        total = float(distances.sum())
        own = config.dimm.energy
        energy = self._read_nj(total)
        energy["vectors_over_link"] = own["link"].nj(8 * total * self._vector_bytes)
        energy["distance_units"] = own["mac"].nj(total * config.dimm.vectors.dim)
        return Searches(done, float((done / hops).mean()), energy)


class Dpus(_Whole):
    """UPMEM's DPUs compute distances, each of the vectors it holds; the host does the rest, hop by hop."""

    def search(self, queries: int, again: bool, rng: np.random.Generator) -> Searches:  # noqa: ARG002
        config, upmem = self.config, self.config.upmem
        hops, distances = self._drawn(queries, rng)
        dim = config.dimm.vectors.dim
        a_hop = float(distances.sum() / hops.sum())
        # vectors are spread evenly, so that a hop's are as even as can be: the best case
        deepest = math.ceil(queries * a_hop / upmem.dpus)
        distance = dim * (1 / upmem.add_mops + 1 / upmem.multiply_mops) * 1e-6
        moved_bytes = queries * (self._vector_bytes + a_hop * 8)
        hop = upmem.launch_us * 1e-6 + moved_bytes / (upmem.transfer_gbps * 1e9) + deepest * distance
        done = hops * hop
        energy = {"upmem": upmem.watts * float(done.max()) * 1e9}
        return Searches(done, hop, energy)
