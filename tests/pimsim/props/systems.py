"""Cases: systems small enough to run in a blink."""

from __future__ import annotations

from typing import Any

from pimsim.system.described.config import SystemConfig
from pimsim.system.report.result import SystemResult
from pimsim.system.run.simulation import run

SMALL: dict[str, Any] = {
    "model": "gpt2-xl",
    "workload.requests": 6,
    "workload.batch": 3,
    "workload.output_tokens": 70,
    "workload.warm_requests": 0,
    "search.sampled": 3,
    "search.hops": 30,
    "search.vertices": 800_000,
}


def config(name: str = "heterrag", **changes: Any) -> SystemConfig:
    """A small one; `__` in a name stands for the dot."""
    return SystemConfig.load(name, {**SMALL, **{field.replace("__", "."): value for field, value in changes.items()}})


def result(name: str = "heterrag", **changes: Any) -> SystemResult:
    return run(config(name, **changes), timeline=True)
