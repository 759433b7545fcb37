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
from pimsim.result import Bound, Provenance, version
from pimsim.standard import Organisation, Standard, Timing
from pimsim.system import ModelShape, SystemConfig, SystemResult
from pimsim.system import run as run_system

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
    "HbmPim",
    "ModelShape",
    "Organisation",
    "PimsimError",
    "Provenance",
    "SearchResult",
    "Standard",
    "SystemConfig",
    "SystemResult",
    "Timing",
    "Trace",
    "TraceError",
    "Traversal",
    "WorkloadError",
    "attention",
    "gemm",
    "gemv",
    "kv_append",
    "run_system",
    "simulate",
    "simulate_search",
    "version",
]
