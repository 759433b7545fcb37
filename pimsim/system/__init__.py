"""System: HeterRAG end to end and its baselines, as a discrete-event model over a workload."""

from pimsim.system.config import SystemConfig
from pimsim.system.model_shape import ModelShape
from pimsim.system.report import SystemResult
from pimsim.system.simulation import run

__all__ = ["ModelShape", "SystemConfig", "SystemResult", "run"]
