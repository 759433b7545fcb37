"""Bound: a figure held to a limit, and timings taken in pairs, which most figures come from."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure, and the largest value it may have."""

    name: str
    value: float
    limit: float

    def row(self) -> dict[str, Any]:
        return {"figure": self.name, "value": round(self.value, 4), "limit": self.limit, "ok": self.value <= self.limit}


def paired(first: Callable[[], float], second: Callable[[], float], runs: int) -> dict[str, float]:
    """Medians of two timings taken in turn (A B, B A, …) after one uncounted run of each, and of their ratios."""
    first(), second()
    pairs = []
    for run in range(runs):
        if run % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        pairs.append((a, b))
    return {
        "ours_ms": round(1000 * statistics.median(a for a, _ in pairs), 2),
        "plain_ms": round(1000 * statistics.median(b for _, b in pairs), 2),
        "ratio": round(statistics.median(a / b for a, b in pairs), 4),
    }
