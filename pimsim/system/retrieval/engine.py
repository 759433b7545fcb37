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
    """Searches of `queries` beside others that are `running`: each takes as long as in a batch of all of them."""
    together = retriever.search(queries + running, again, rng)
    share = effort * queries / (queries + running)
    return Searches(together.done[:queries] * effort, together.hop, together.energy, together.times * share)


def retriever(config: SystemConfig, in_hand: int | None = None) -> Retriever:
    """The retriever of a system, for up to `in_hand` queries at once (a batch if None). PimsimError if it cannot be."""
    if config.retrieval.engine == "acceldimm":
        return AccelDimms(config, in_hand or config.workload.batch)
    kinds: dict[str, type[Cpu] | type[HbmBehindLink] | type[Dpus]] = {"cpu": Cpu, "hbm": HbmBehindLink, "upmem": Dpus}
    engine: Retriever = kinds[config.retrieval.engine](config)
    return engine
