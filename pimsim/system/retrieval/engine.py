"""Engine: the retriever that a system's `retrieval.engine` names, and searches beside others that run."""

from __future__ import annotations

import numpy as np

from pimsim.system.described.config import SystemConfig
from pimsim.system.retrieval.acceldimm import AccelDimms
from pimsim.system.retrieval.baselines import Cpu, Dpus, HbmBehindLink
from pimsim.system.retrieval.protocol import Retriever, Searches


def search(
    retriever: Retriever, effort: float, queries: int, running: int, again: bool, rng: np.random.Generator
) -> Searches:
    """So many searches beside others that are `running`: each takes as long as in a batch of all of them."""
    found = retriever.search(queries + running, again, rng)
    share = effort * queries / (queries + running)
    return Searches(found.done[:queries] * effort, found.hop, found.energy, found.times * share)


def retriever(config: SystemConfig, in_hand: int | None = None) -> Retriever:
    """Of the system, for up to `in_hand` queries at once, or else a batch. PimsimError for what cannot be."""
    if config.retrieval.engine == "acceldimm":
        return AccelDimms(config, in_hand or config.workload.batch)
    kinds: dict[str, type[Cpu] | type[HbmBehindLink] | type[Dpus]] = {"cpu": Cpu, "hbm": HbmBehindLink, "upmem": Dpus}
    made: Retriever = kinds[config.retrieval.engine](config)
    return made
