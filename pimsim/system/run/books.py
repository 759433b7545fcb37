"""Books: what a run spends and counts."""

from __future__ import annotations

from collections.abc import Mapping

from pimsim.system.described.config import SystemConfig
from pimsim.system.generation.protocol import Cost
from pimsim.system.report.standby import standby_w

COUNTED = (
    "retrievals",
    "prefilled_tokens",
    "loaded_tokens",
    "wasted_tokens",
    "wasted_documents",
    "prefills",
    "decode_steps",
    "bytes_retrieval_link",
    "bytes_generation_link",
)


class Books:
    """`energy` in nJ by part, as `SystemResult` has it, and `counts` by name."""

    def __init__(self) -> None:
        self.energy: dict[str, float] = {}
        self.counts: dict[str, float] = dict.fromkeys(COUNTED, 0)

    def spend(self, part: str, nj: float) -> None:
        """Add nJ to a part of the energy."""
        self.energy[part] = self.energy.get(part, 0.0) + nj

    def pay(self, cost: Cost) -> None:
        """Add the energy of a piece of generation."""
        for part, nj in cost.energy.items():
            self.spend(f"generation_{part}", nj)

    def close(
        self, config: SystemConfig, makespan: float, busy: Mapping[str, float], idle_w: Mapping[str, float]
    ) -> None:
        """Add what does not depend on single events: the host, the links, standby power, and idle units.

        `makespan` and `busy`, by unit, are seconds; `idle_w` is watts of a unit that is not busy.
        """
        host, link = config.host, config.dimm.energy["link"]
        self.energy["host"] = (host.idle_w * makespan + (host.active_w - host.idle_w) * busy["host"]) * 1e9
        for name in ("retrieval_link", "generation_link"):
            self.energy[name] = link.nj(8 * self.counts[f"bytes_{name}"])
        for name, watts in standby_w(config).items():
            self.energy[f"{name}_standby"] = watts * makespan * 1e9
        for name, watts in idle_w.items():
            if watts:
                self.energy[f"{name}_idle"] = watts * (makespan - busy[name]) * 1e9
