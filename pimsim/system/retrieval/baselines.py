"""Baselines: retrievers without AccelDIMMs: a CPU, HBM behind a link, UPMEM's DPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from pimsim.result import Bound
from pimsim.system.described.config import SystemConfig
from pimsim.system.retrieval.drawn_searches import points, recorded
from pimsim.system.retrieval.protocol import Searches


@dataclass
class _Whole:
    """A retriever that searches the whole index at once: every query's hops are drawn from the same distribution."""

    config: SystemConfig
    idle_w: float = 0.0
    bounds: list[Bound] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        workload = self.config.workload
        traversal = recorded(self.config)
        if traversal is not None:
            self._hops = np.diff(traversal.first_hop)
            self._distances = np.diff(traversal.first_vector[traversal.first_hop])
        else:
            drawn = points(self.config.search, workload, self.config.search.sampled, 10)
            self._hops = np.array([point.hops for point in drawn])
            self._distances = self._hops * self.config.search.vectors_a_hop
        self.counts["distances_a_search"] = float(self._distances.mean())

    def _drawn(self, queries: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Hops and distances of each query, both int64 [queries]."""
        chosen = rng.integers(len(self._hops), size=queries)
        return self._hops[chosen], self._distances[chosen]

    @property
    def _vector_bytes(self) -> int:
        return self.config.dimm.vectors.bytes

    def _read_nj(self, distances: float) -> dict[str, float]:
        """nJ of ordinary DIMMs, by part: a row and a vector's bursts for each distance, and the way off the DIMM."""
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
        for query in range(queries):
            core = min(range(cpu.cores), key=lambda core: (ends[core], core))
            ends[core] += float(size[query]) / (rate * 1e9)
            done[query] = ends[core]
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
        for query in order:
            moved_bytes += (size[query] - before) * left
            before, left = size[query], left - 1
            shared[query] = moved_bytes / (config.link.gbps * config.retrieval.devices * 1e9)
        done = np.maximum(shared, hops * hop + size / (config.link.gbps * 1e9))
        total = float(distances.sum())
        own = config.dimm.energy
        energy = self._read_nj(total)
        energy["vectors_over_link"] = own["link"].nj(8 * total * self._vector_bytes)
        energy["distance_units"] = own["mac"].nj(total * config.dimm.vectors.dim)
        return Searches(done, float((done / hops).mean()), energy)


class Dpus(_Whole):
    """UPMEM's DPUs: each computes the distances of the vectors that it holds; the host does everything else, hop by
    hop.
    """

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
