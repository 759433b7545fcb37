"""Report: the result of a simulated search, in times, shares, bytes and nJ, and the bound that holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from pimsim.dimm_pim.bounds import bounds
from pimsim.dimm_pim.device import DimmDevice
from pimsim.dimm_pim.state import (
    ACTIVATES,
    ACTIVE,
    BUSY,
    COMPUTING,
    DEEPEST,
    EVENTS,
    GLOBAL,
    INSTRUCTIONS,
    LIST_BURSTS,
    LOCAL,
    REFRESHES,
    RESULTS,
    ROW_HITS,
    SEND_QUERY,
    SEND_RESULTS,
    TRANSFERS,
    VECTOR_BURSTS,
    Parameters,
    State,
    Work,
)
from pimsim.dimm_pim.traversal import LOWEST, NO_LIST, Traversal
from pimsim.result import Provenance

PERCENTILES = (50, 95, 99)


class SearchResult:
    """The result of one simulated search. Times are µs, energies nJ.

    A query's latency runs from the host's sending it to its results being there. `numbers`, `work` and `state` are the
    model's own, for what the report leaves out.
    """

    def __init__(self, device: DimmDevice, traversal: Traversal, numbers: Parameters, work: Work, state: State) -> None:
        self.device, self.traversal = device, traversal
        self.numbers, self.work, self.state = numbers, work, state
        self._span = int(state.done.max())
        self.bounds = bounds(numbers, work, state, self._span)
        self.energy_nj = self._energy()
        self.provenance = Provenance.of(
            device,
            clocks_mhz={
                "memory": 1e6 / numbers.tck_ps,
                "RPM": device.rpm.clock_mhz,
                "TPM": device.tpm.clock_mhz,
            },
            sourced=device.sourced,
            bounds=self.bounds,
            energy_table={
                **device.memory_energy.as_dict(),
                **device.energy.as_dict(),
                "name": f"{device.memory_energy.name} + {device.energy.name}",
            },
            warnings=self._warnings(),
        )

    @property
    def time_us(self) -> float:
        """Microseconds from the first query's being sent to the last result's being at the host."""
        return self._span / 1e6

    @property
    def queries_per_second(self) -> float:
        """Queries over the whole time."""
        return len(self.state.done) * 1e12 / self._span

    @property
    def latencies_us(self) -> np.ndarray:
        """Microseconds from the host's sending a query to its having the result, float64 [queries]."""
        return (self.state.done - self.state.sent) / 1e6

    @property
    def bound(self) -> str:
        """The name of the bound that holds."""
        return self.bounds[0].name

    def as_dict(self) -> dict[str, Any]:
        """All figures as the command's JSON names them."""
        state, latencies = self.state, self.latencies_us
        return {
            "device": self.device.name,
            "queries": len(state.done),
            "hops": len(self.work.list_rank),
            "distances": len(state.source),
            "vertices": self.traversal.shard,
            "dim": self.device.vectors.dim,
            "batch": self.numbers.batch,
            "time_us": self.time_us,
            "queries_per_second": self.queries_per_second,
            "latency_us": {
                "mean": float(latencies.mean()),
                **{f"p{percentile}": float(np.percentile(latencies, percentile)) for percentile in PERCENTILES},
                "max": float(latencies.max()),
            },
            "bound": self.bound,
            "utilisation": self.utilisation(),
            "cache": self.cache(),
            "dram": self._dram(),
            "bytes": self.bytes(),
            "energy_nj": self.energy_nj,
            "events": int(state.scalars[EVENTS]),
            "provenance": self.provenance.as_dict(),
        }

    def utilisation(self) -> dict[str, float]:
        """Busy shares of the time, by part: the mean, and that of the busiest instance."""
        p, totals, buses = self.numbers, self.state.rank_totals, self.state.bus_totals[: self.numbers.channels]
        bursts = (totals[:, VECTOR_BURSTS] + totals[:, LIST_BURSTS]) * p.tBL * p.tck_ps
        shares = {
            "rank_data": bursts,  # its data pins carry bursts
            "rank_active": totals[:, ACTIVE],  # it has a vector or a list in hand
            "distance_unit": totals[:, COMPUTING],
            "channel": buses[:, BUSY],
            "tpm_lane": self.state.lane_busy,
        }
        shares_busy = {name: float(busy.mean()) / self._span for name, busy in shares.items()}
        return shares_busy | {f"{name}_max": float(busy.max()) / self._span for name, busy in shares.items()}

    def cache(self) -> dict[str, Any]:
        """Hits and misses of the vertex caches, and their ratio."""
        source = self.state.source
        local, whole = int((source == LOCAL).sum()), int((source == GLOBAL).sum())
        hits = local + whole
        return {
            "vectors_a_rank": {"local": self.numbers.local_vectors, "global": self.numbers.global_vectors},
            "lookups": len(source),
            "local_hits": local,
            "global_hits": whole,
            "misses": len(source) - hits,
            "hit_ratio": hits / max(1, len(source)),
        }

    def _dram(self) -> dict[str, Any]:
        totals = self.state.rank_totals
        names = {"activates": ACTIVATES, "row_hits": ROW_HITS, "refreshes": REFRESHES}
        names |= {"vector_bursts": VECTOR_BURSTS, "list_bursts": LIST_BURSTS}
        bursts = totals[:, VECTOR_BURSTS]
        return {name: int(totals[:, column].sum()) for name, column in names.items()} | {
            "busiest_rank_to_mean": float(bursts.max() / bursts.mean()) if bursts.any() else 1.0
        }

    def bytes(self) -> dict[str, int]:
        """Bytes that moved, by link. Distances cross the channel in bursts, which `results_on_channel` counts whole."""
        device, state = self.device, self.state
        burst = device.standard.organisation.burst_bytes
        buses = state.bus_totals
        moved = {
            "rank_private": int(state.rank_totals[:, VECTOR_BURSTS].sum()) * burst,
            "cache": int((state.source != 0).sum()) * device.vectors.bytes,
            "queries_on_channel": int(buses[:, TRANSFERS + SEND_QUERY].sum()) * device.vector_bursts * burst,
            "lists_on_channel": int(state.rank_totals[:, LIST_BURSTS].sum()) * burst,
            "instructions_on_channel": int(buses[:, INSTRUCTIONS].sum()) * device.instruction_bits // 8,
            "results_on_channel": int(buses[:, TRANSFERS + SEND_RESULTS].sum()) * burst,
            "results": int(buses[:, RESULTS].sum()) * device.dpm.result_bytes,
            "host_to_device": len(state.done) * device.vectors.bytes,
            "device_to_host": len(state.done) * device.graph.k * device.dpm.result_bytes,
        }
        moved["channel"] = sum(amount for name, amount in moved.items() if name.endswith("_on_channel"))
        return moved

    def _energy(self) -> dict[str, float]:
        device, moved, totals = self.device, self.bytes(), self.state.rank_totals
        own, memory = device.energy, device.memory_energy
        misses = int((self.state.source == 0).sum())
        distances = len(self.state.source)
        filled = misses * device.vectors.bytes if self.numbers.local_vectors else 0
        parts = {
            "dram_activate": memory["activate_precharge"].nj(float(totals[:, ACTIVATES].sum())),
            "dram_read": memory["read"].nj(float((totals[:, VECTOR_BURSTS] + totals[:, LIST_BURSTS]).sum())),
            "distance_units": own["mac"].nj(distances * device.vectors.dim),
            "vertex_cache": own["vertex_cache"].nj(8 * (moved["cache"] + filled)),
            "channel": own["channel_io"].nj(8 * moved["channel"]),
            "tpm_queue": own["comparison"].nj(distances * device.graph.ef),
            "tpm_visited": own["visited_lookup"].nj(float(self.work.list_ids.sum())),
            "host_link": own["link"].nj(8 * (moved["host_to_device"] + moved["device_to_host"])),
        }
        if "refresh" in memory.terms:  # not every table has it
            parts["dram_refresh"] = memory["refresh"].nj(float(totals[:, REFRESHES].sum()))
        if "background" in memory.terms:
            parts["dram_background"] = memory["background"].nj(len(totals) * self.time_us * 1e3)
        return parts | {"total": sum(parts.values())}

    def _warnings(self) -> list[str]:
        device, warnings = self.device, []
        at_once = min(device.tpm.in_flight, device.workload.batch, len(self.state.done))
        if not (self.traversal.list_kind != NO_LIST).any():
            warnings.append("the traversal names no neighbour lists: reading them is not in these times")
        lowest = 2 * device.graph.neighbours * device.graph.id_bytes
        if device.tpm.lanes * lowest > device.tpm.neighbour_buffer_bytes and (self.traversal.list_kind == LOWEST).any():
            warnings.append(f"a lane's share of the neighbour buffer is less than a list of {lowest} bytes")
        if at_once * self.traversal.shard > 8 * device.tpm.visited_bytes:
            warnings.append(f"the visited list holds less than a bit for each vertex and {at_once} queries")
        deepest = int(self.state.rank_totals[:, DEEPEST].max())
        if deepest > device.rpm.queue:
            warnings.append(f"{deepest} instructions waited at a rank, which has room for {device.rpm.queue}")
        waiting = int(self.state.most_results.max())
        if waiting * device.dpm.result_bytes > device.dpm.distance_buffer_bytes:
            warnings.append(f"{waiting} distances waited on a DIMM, more than its buffer holds")
        return warnings

    def in_words(self) -> str:
        """The search as a few lines for the terminal: rate, latency, load, cache, energy and provenance."""
        report = self.as_dict()
        latency, shares, cache = report["latency_us"], report["utilisation"], report["cache"]
        energy = ", ".join(f"{name} {nj:.4g}" for name, nj in self.energy_nj.items() if name != "total" and nj)
        return "\n".join(
            [
                f"{report['queries']} queries, {report['hops']} hops, {report['distances']} distances of "
                f"{report['dim']} elements on {report['device']}: {self.time_us:.6g} us, "
                f"{self.queries_per_second:.6g} queries/s",
                f"  latency: mean {latency['mean']:.4g} us, p50 {latency['p50']:.4g}, p95 {latency['p95']:.4g}, "
                f"p99 {latency['p99']:.4g}",
                f"  busy: ranks' data pins {shares['rank_data']:.1%} (busiest {shares['rank_data_max']:.1%}), ranks "
                f"{shares['rank_active']:.1%}, channels {shares['channel']:.1%}, distance units "
                f"{shares['distance_unit']:.1%}, TPM lanes {shares['tpm_lane']:.1%}",
                f"  vertex cache: {cache['hit_ratio']:.1%} of {cache['lookups']} found, {cache['local_hits']} local, "
                f"{cache['global_hits']} global",
                f"  energy: {self.energy_nj['total']:.6g} nJ ({energy})",
                f"  holds: {self.bound}",
                self.provenance.in_words(),
            ]
        )
