"""Bill: area of the logic that is added to memory, and what a system costs to buy."""

from __future__ import annotations

from pimsim.system.described.config import SystemConfig


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
    price, dimm, hbm, gigabyte = config.price, config.dimm, config.hbm, 1e9
    devices, engine = config.retrieval.devices, config.retrieval.engine
    ranks = dimm.organisation.all_ranks * devices if engine == "acceldimm" else config.retrieval.plain_ranks
    found = price.host_usd + ranks * dimm.standard.organisation.rank_bytes / gigabyte * price.dimm_usd_a_gb
    a_gb = price.hbm_usd_a_gb if hbm.standard.kind.startswith("HBM") else price.dimm_usd_a_gb
    stacks = hbm.standard.organisation.bytes * hbm.stacks / gigabyte * a_gb
    if engine == "acceldimm":
        found += dimm.organisation.all_dimms * devices * config.area.dimm_module_mm2 * price.logic_usd_a_mm2
    elif engine == "hbm":  # its own stacks, which the vectors come to
        found += stacks * devices
    if config.generation.engine == "gpu":
        return found + config.gpu.price_usd * config.generation.devices
    return found + stacks * config.generation.devices + _stack_modules(config) * price.logic_usd_a_mm2


def _stack_modules(config: SystemConfig) -> float:
    """Of the generation devices: the paper tells the area for a stack of 256 banks, the others take it by the bank."""
    hbm = config.hbm
    stacks = hbm.banks_per_stack * hbm.stacks / 256
    return stacks * config.generation.devices * config.area.stack_module_mm2
