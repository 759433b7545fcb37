"""What if memory computed? The simulator of HBM-PIM and DIMM-PIM; it imports no other package of this project."""

from pimsim.dimm_pim.device import DimmDevice
from pimsim.dimm_pim.report import SearchResult
from pimsim.dimm_pim.search import simulate_search
from pimsim.dimm_pim.traversal import Traversal
from pimsim.dram.controller import Controller, simulate
from pimsim.dram.mapping import AddressMapping
from pimsim.dram.result import DramResult
from pimsim.dram.trace import Trace
from pimsim.energy import EnergyTable
from pimsim.errors import FieldError, PimsimError, TraceError, WorkloadError
from pimsim.hbm_pim.attention import Attention, AttentionResult, attention
from pimsim.hbm_pim.device import Device as HbmPim
from pimsim.hbm_pim.products import gemm, gemv, kv_append
from pimsim.plot.plots import plot_front, plot_lines, plot_tornado
from pimsim.result import Bound, Provenance, version
from pimsim.standard import Organisation, Standard, Timing
from pimsim.sweep.design import Sweep
from pimsim.sweep.pareto import Front, Objective, pareto
from pimsim.sweep.results import Results
from pimsim.sweep.run import run_sweep
from pimsim.sweep.sensitivity import assumed_spread, effects
from pimsim.system.described.config import SystemConfig
from pimsim.system.described.model_shape import ModelShape
from pimsim.system.report.bill import cost_usd as system_cost_usd
from pimsim.system.report.result import SystemResult
from pimsim.system.run.simulation import run as run_system

__all__ = [
    "AddressMapping",
    "Attention",
    "AttentionResult",
    "Bound",
    "Controller",
    "DimmDevice",
    "DramResult",
    "EnergyTable",
    "FieldError",
    "Front",
    "HbmPim",
    "ModelShape",
    "Objective",
    "Organisation",
    "PimsimError",
    "Provenance",
    "Results",
    "SearchResult",
    "Standard",
    "Sweep",
    "SystemConfig",
    "SystemResult",
    "Timing",
    "Trace",
    "TraceError",
    "Traversal",
    "WorkloadError",
    "assumed_spread",
    "attention",
    "effects",
    "gemm",
    "gemv",
    "kv_append",
    "pareto",
    "plot_front",
    "plot_lines",
    "plot_tornado",
    "run_sweep",
    "run_system",
    "simulate",
    "simulate_search",
    "system_cost_usd",
    "version",
]
