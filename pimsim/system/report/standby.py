"""Standby: the background and refresh power of the memory, which it draws all the time."""

from __future__ import annotations

from pimsim.energy import EnergyTable
from pimsim.standard import Standard
from pimsim.system.described.config import SystemConfig


def standby_w(config: SystemConfig) -> dict[str, float]:
    """Watts of the memory of each unit. A GPU's memory is in its own power; a term that a table leaves out counts as
    0.
    """
    dimm = config.dimm
    rank = _of_rank(dimm.standard, dimm.memory_energy)
    if config.retrieval.engine == "acceldimm":
        watts = {"retrieval": rank * dimm.organisation.all_ranks * config.retrieval.devices}
    else:
        watts = {"retrieval": rank * config.retrieval.plain_ranks}
    if config.retrieval.engine == "hbm":
        watts["retrieval"] += _of_stacks(config) * config.retrieval.devices
    if config.generation.engine == "accelhbm":
        watts["generation"] = _of_stacks(config) * config.generation.devices
    return watts


def _of_stacks(config: SystemConfig) -> float:
    """Watts of the memory of one HBM device."""
    hbm = config.hbm
    organisation = hbm.standard.organisation
    # tables of stacked memory are of a pseudo channel, those of DIMMs of a rank
    parts = organisation.channels * organisation.pseudo_channels * hbm.stacks
    if not hbm.standard.kind.startswith("HBM"):
        parts *= organisation.ranks
    return _of_rank(hbm.standard, hbm.table) * parts


def _of_rank(standard: Standard, table: EnergyTable) -> float:
    """Watts of a rank, or of a pseudo channel of stacked memory."""
    refreshes = table.get("refresh").nj(1) / standard.ns(standard.timing.tREFI)  # nJ a ns
    return table.get("background").nj(1) + refreshes
