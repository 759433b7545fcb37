"""What if memory computed? The simulator of HBM-PIM and DIMM-PIM; it imports no other package of this project."""

from pimsim.energy import EnergyTable
from pimsim.errors import FieldError, PimsimError, TraceError, WorkloadError
from pimsim.result import Bound, Provenance, version
from pimsim.standard import Organisation, Standard, Timing

__all__ = [
    "Bound",
    "EnergyTable",
    "FieldError",
    "Organisation",
    "PimsimError",
    "Provenance",
    "Standard",
    "Timing",
    "TraceError",
    "WorkloadError",
    "version",
]
