"""Reproduction: HeterRAG's results beside ours, each with its deviation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from pimsim.paper.evaluation import (
    SWITCHES,
    Evaluation,
    Results,
    energy,
    latency,
    mean,
    ratios,
)

MARGIN = 0.01  # growth or loss below it is none


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the paper. Ours counts as reproduced from `low` to `high`; `ours` is by case."""

    name: str
    paper: float
    low: float
    high: float
    ours: Mapping[str, float]

    def matched(self, batch: str) -> bool:
        """Whether ours is reproduced in this case."""
        return self.low <= self.ours[batch] <= self.high

    def deviation(self, batch: str) -> float:
        """How far ours is from the paper's figure, as a share of that figure."""
        return self.ours[batch] / self.paper - 1 if self.paper else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The figure as the command's JSON has it."""
        return {
            "name": self.name,
            "paper": self.paper,
            "accepted": [self.low, self.high],
            "ours": {
                batch: {"value": value, "deviation": self.deviation(batch), "matched": self.matched(batch)}
                for batch, value in self.ours.items()
            },
        }

    def in_words(self) -> str:
        """The figure as one line of the table: the paper's value, then ours of each batch, how far off, in or out."""
        columns = [f"{self.name:<52} {self.paper:>8.4g}"]
        for batch, value in self.ours.items():
            columns.append(f"{value:>9.4g} {self.deviation(batch):>+6.0%} {'in ' if self.matched(batch) else 'OUT'}")
        return "  ".join(columns)


def figures(evaluations: Mapping[str, Evaluation]) -> list[Figure]:
    """All figures of the paper that have a number."""

    def each(measure: Callable[[Results], float]) -> dict[str, float]:
        return {batch: measure(one.runs) for batch, one in evaluations.items()}

    def gain(system: str) -> dict[str, float]:
        return each(partial(mean, system=system))

    rows = [
        Figure("throughput, HeterRAG / CPU-GPU, mean", 13.52, 0.7 * 13.52, 1.4 * 13.52, gain("heterrag")),
        Figure("  least", 6.62, 0.7 * 6.62, 1.4 * 6.62, each(lambda r: min(ratios(r, "heterrag")))),
        Figure("  most", 26.53, 0.7 * 26.53, 1.4 * 26.53, each(lambda r: max(ratios(r, "heterrag")))),
        Figure("throughput, OnlyDIMM / CPU-GPU, mean", 3.38, 0.6 * 3.38, 1.6 * 3.38, gain("only-dimm")),
        Figure("throughput, NaiveHBM / CPU-GPU, mean (below 1)", 1.0, 0.0, 1.0, gain("naive-hbm")),
    ]
    llama = ("llama2-7b",)
    for system, paper in (("cpu-gpu-v100", 13.72), ("naive-hbm", 19.47), ("only-dimm", 4.07)):
        ours = each(partial(mean, system=system, to="heterrag", of=latency, models=llama))
        rows.append(Figure(f"latency, {system} / HeterRAG", paper, 0.7 * paper, 1.4 * paper, ours))
    bands = {
        "cpu-gpu-v100": (-0.498, -0.64, -0.35),
        "naive-hbm": (-0.17, -0.34, 0.0),
        "only-dimm": (-0.7225, -0.9, -0.5),
    }
    for system, (paper, low, high) in bands.items():
        ours = {
            batch: ratio - 1
            for batch, ratio in each(partial(mean, system="heterrag", to=system, of=energy, models=llama)).items()
        }
        rows.append(Figure(f"energy a request, HeterRAG to {system}", paper, low, high, ours))
    for switch, paper in zip(SWITCHES, (1.25, 1.22, 1.20), strict=True):
        ours = {batch: fmean(one.gains[switch].values()) for batch, one in evaluations.items()}
        rows.append(Figure(f"throughput with {switch} / base, mean", paper, 1.1, 1.4, ours))
    for switch, words, low, high in (("r", "above", 1.0 + MARGIN, 10.0), ("g", "below", 0.0, 1.0 - MARGIN)):
        ours = {batch: one.gains[switch]["IR-16"] / one.gains[switch]["OR"] for batch, one in evaluations.items()}
        rows.append(Figure(f"  of {switch}: IR-16 / OR ({words} 1)", 1.0, low, high, ours))
    for unit, with_p, paper in (
        ("retrieval", False, 0.378),
        ("generation", False, 0.31),
        ("retrieval", True, 0.445),
        ("generation", True, 0.386),
    ):
        key = f"{unit}_{'p' if with_p else 'base'}"
        ours = {batch: one.busy[key] for batch, one in evaluations.items()}
        device = "AccelDIMM" if unit == "retrieval" else "AccelHBM"
        rows.append(
            Figure(f"utilisation of {device}{' with p' if with_p else ''}", paper, 0.7 * paper, 1.4 * paper, ours)
        )
    for name, kind, paper in (
        ("AccelHBM 4 to 10, LLaMA2-70B, throughput", "hbm", 1.78),
        ("AccelDIMM 4 to 32, searches a second", "dimm", 8.0),
    ):
        ours = {batch: one.scaling[kind] for batch, one in evaluations.items()}
        rows.append(Figure(name, paper, paper - 0.3 if kind == "hbm" else 0.8 * paper, 1.17 * paper, ours))
    return rows
