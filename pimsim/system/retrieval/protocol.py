"""Protocol: what every retriever promises: how long searches take, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pimsim.result import Bound


@dataclass(frozen=True, slots=True)
class Searches:
    """The times and the energy of a batch of searches on all devices."""

    done: np.ndarray  # s from when the queries are there, float64 [queries]; of the slowest device
    hop: float  # s of one hop
    energy: Mapping[str, float]  # nJ by part, to be taken `times`
    times: float = 1.0


class Retriever(Protocol):
    """The devices of a system that search. `bounds` and `counts` are for the report, and complete after the last
    search.
    """

    idle_w: float  # while it does not search; beside the energy of its searches
    bounds: list[Bound]
    counts: dict[str, float]

    def search(self, queries: int, again: bool, rng: np.random.Generator) -> Searches:
        """The times and the energy of `queries` searches at once; `again`: their requests have retrieved before."""
