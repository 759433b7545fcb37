"""Engine: the generator that a system's `generation.engine` names."""

from __future__ import annotations

from pimsim.errors import WorkloadError
from pimsim.system.described.config import SystemConfig
from pimsim.system.generation.accelhbm import AccelHbms
from pimsim.system.generation.gpu import Gpu
from pimsim.system.generation.protocol import Generator


def generator(config: SystemConfig) -> Generator:
    """The generator of a system. WorkloadError if the model does not fit into its memory."""
    engine: Generator = Gpu(config) if config.generation.engine == "gpu" else AccelHbms(config)
    if config.model.weight_bytes >= engine.memory_bytes:
        raise WorkloadError(
            f"{config.model.name} has {config.model.weight_bytes / 1e9:.1f} GB of weights, and the generation devices "
            f"{engine.memory_bytes / 1e9:.1f} GB of memory: take more devices (generation.devices), or larger ones"
        )
    return engine
