"""SystemResult: what a run came to, as flat metrics by name.

Time symbols: a request arrives (its query reaches the host, or a place among the requests in hand falls free), its
first retrieval ends when the host has merged the last device's results, its first token is there when the prefill of
its whole prompt has ended, it is done with its last token at the host.

`latency_*_s` arrival to done, `ttft_*_s` arrival to first token, `retrieval_*_s` from when a request wants documents to
when the generation devices have the last of them, `makespan_s` first arrival to last done;
`throughput_rps` and `tokens_per_s` are requests and output tokens over the makespan. `utilisation_*` are busy shares of
the makespan, of a kind's devices together; `busy_*_s` and `idle_*_s` sum to it. `energy_nj_*` are nJ, of which
`energy_nj_total` is the sum; `bytes_*` cross a link or memory. Of the `prefilled_tokens`, `wasted_tokens` were computed
for documents, or behind documents, that a search had found and then displaced; `wasted_documents` is how many that did
not stay went over the link.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pimsim.result import Provenance
from pimsim.system.described.config import SystemConfig

KINDS = ("time", "energy", "cost", "area")
NUMBERS = ("devices", "stacks", "channels", "dimms", "ranks")  # how much there is of something
WATTS = ("watts", "_w", "_pj", "decode_share")
UNITS = ("host", "retrieval_link", "retrieval", "generation_link", "generation")
PERCENTILES = (50, 95, 99)


def kinds(name: str) -> tuple[str, ...]:
    """Kinds of figures, out of KINDS, on which a parameter of that name has an effect."""
    if name.startswith("price.") or name.endswith("price_usd"):
        return ("cost",)
    if name.startswith("area.") or name.endswith("area_mm2"):
        return ("cost", "area")
    if ".energy." in name or ".memory_energy." in name or name.endswith(WATTS):
        return ("energy",)
    if name.endswith(NUMBERS):
        return KINDS
    return ("time", "energy")  # what takes longer draws its standby power longer


@dataclass(frozen=True, slots=True)
class SystemResult:
    """The result of one run. `latencies` and `first_tokens` are seconds of each request, in their order."""

    config: SystemConfig = field(repr=False)
    latencies: np.ndarray
    first_tokens: np.ndarray
    retrievals: np.ndarray  # s of each retrieval, from the query at the host to its documents at the generation devices
    makespan: float
    tokens: int
    busy: Mapping[str, float]  # s, by unit
    energy: Mapping[str, float]  # nJ, by part
    counts: Mapping[str, float]  # what else was counted
    area_mm2: float
    cost_usd: float
    provenance: Provenance = field(repr=False)
    spans: tuple[tuple[str, str, float, float], ...] = field(default=(), repr=False)  # unit, what, begin, end in s

    @property
    def throughput_rps(self) -> float:
        """Requests a second over the makespan."""
        return len(self.latencies) / self.makespan

    @property
    def bottleneck(self) -> str:
        """The unit that is busy longest; of equal ones the first of UNITS."""
        return max(UNITS, key=lambda unit: self.busy[unit])

    def leans_on(self) -> dict[str, list[str]]:
        """Names of the assumed parameters that each kind of figure depends on; `time` is all but the other three."""
        by_kind: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for value in self.provenance.assumed:
            for kind in kinds(value.name):
                by_kind[kind].append(value.name)
        return by_kind

    def as_dict(self) -> dict[str, Any]:
        """All metrics by name, as the command's JSON has them: flat, `provenance` alone is a mapping."""
        total = sum(self.energy.values())
        report: dict[str, Any] = {
            "system": self.config.name,
            "model": self.config.model.name,
            "requests": len(self.latencies),
            "tokens": self.tokens,
            "makespan_s": self.makespan,
            "throughput_rps": self.throughput_rps,
            "tokens_per_s": self.tokens / self.makespan,
        }
        for name, values in (
            ("latency", self.latencies),
            ("ttft", self.first_tokens),
            ("retrieval", self.retrievals),
        ):
            report[f"{name}_mean_s"] = float(values.mean())
            for percentile in PERCENTILES:
                report[f"{name}_p{percentile}_s"] = float(np.percentile(values, percentile))
        for unit in UNITS:
            report[f"utilisation_{unit}"] = self.busy[unit] / self.makespan
            report[f"busy_{unit}_s"] = self.busy[unit]
            report[f"idle_{unit}_s"] = self.makespan - self.busy[unit]
        report["bottleneck"] = self.bottleneck
        report |= {f"energy_nj_{part}": nj for part, nj in self.energy.items()}
        report["energy_nj_total"] = total
        report["energy_j_a_request"] = total * 1e-9 / len(self.latencies)
        report |= dict(self.counts)
        report["area_mm2"] = self.area_mm2
        report["cost_usd"] = self.cost_usd
        report["provenance"] = {**self.provenance.as_dict(), "leans_on": self.leans_on()}
        return report

    def in_words(self) -> str:
        """The run as a few lines for the terminal: rate, latency, load, energy, area, cost and provenance."""
        report = self.as_dict()
        energy = ", ".join(f"{part} {nj * 1e-9:.4g}" for part, nj in self.energy.items() if nj)
        busy = ", ".join(f"{unit} {report[f'utilisation_{unit}']:.1%}" for unit in UNITS)
        return "\n".join(
            [
                f"{report['requests']} requests, {self.tokens} tokens of {report['model']} on {report['system']}: "
                f"{self.makespan:.5g} s, {self.throughput_rps:.4g} requests/s, {report['tokens_per_s']:.5g} tokens/s",
                f"  latency: mean {report['latency_mean_s']:.4g} s, p50 {report['latency_p50_s']:.4g}, "
                f"p95 {report['latency_p95_s']:.4g}, p99 {report['latency_p99_s']:.4g}; first token: mean "
                f"{report['ttft_mean_s']:.4g} s, p99 {report['ttft_p99_s']:.4g}",
                f"  busy: {busy}; {self.bottleneck} holds",
                f"  energy in J: {energy}; {report['energy_j_a_request']:.4g} a request",
                f"  {self.area_mm2:.4g} mm2 of logic, {self.cost_usd:.6g} USD",
                self.provenance.in_words(),
            ]
        )

    def trace(self) -> dict[str, Any]:
        """The timeline as Chrome's trace viewer reads it; times in µs."""
        events: list[dict[str, Any]] = [
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": thread, "args": {"name": unit}}
            for thread, unit in enumerate(UNITS)
        ]
        for unit, what, begin, end in self.spans:
            times = {"ts": begin * 1e6, "dur": (end - begin) * 1e6}
            events.append({"name": what, "ph": "X", "pid": 0, "tid": UNITS.index(unit), **times})
        return {"traceEvents": events, "displayTimeUnit": "ms"}
