"""Bill: area of the logic that is added to memory, and what a system costs to buy."""

from __future__ import annotations

from pimsim.system.config import SystemConfig


def area_mm2(config: SystemConfig) -> float:
    """Logic in memory, at 22 nm with the paper's share for DRAM's process; a GPU's die where there is one."""
    found = 0.0
    if config.retrieval.engine == "acceldimm":
        found += config.dimm.organisation.all_dimms * config.retrieval.devices * config.area.dimm_module_mm2
    if config.generation.engine == "gpu":
        return found + config.gpu.area_mm2 * config.generation.devices
    return found + _stack_modules(config)


def cost_usd(config: SystemConfig) -> float:
    """Memory by the GB, added logic by the mm2, the host; a GPU by its price."""
    price, gigabyte = config.price, 1e9
    found = price.host_usd
    if config.retrieval.engine == "acceldimm":
        dimm = config.dimm
        memory = dimm.standard.organisation.rank_bytes * dimm.organisation.all_ranks * config.retrieval.devices
        logic = dimm.organisation.all_dimms * config.retrieval.devices * config.area.dimm_module_mm2
        found += logic * price.logic_usd_a_mm2
    else:
        memory = config.search.vertices * config.dimm.vectors.bytes
    found += memory / gigabyte * price.dimm_usd_a_gb
    if config.generation.engine == "gpu":
        return found + config.gpu.price_usd * config.generation.devices
    hbm = config.hbm
    capacity = hbm.standard.organisation.bytes * hbm.stacks * config.generation.devices
    a_gb = price.hbm_usd_a_gb if hbm.standard.kind.startswith("HBM") else price.dimm_usd_a_gb
    return found + capacity / gigabyte * a_gb + _stack_modules(config) * price.logic_usd_a_mm2


def _stack_modules(config: SystemConfig) -> float:
    """Of the generation devices: the paper tells the area for a stack of 256 banks, the others take it by the bank."""
    hbm = config.hbm
    stacks = hbm.banks_per_stack * hbm.stacks / 256
    return stacks * config.generation.devices * config.area.stack_module_mm2
