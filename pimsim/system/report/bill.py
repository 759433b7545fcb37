"""Bill: area of the logic that is added to memory, and what a system costs to buy."""

from __future__ import annotations

from pimsim.system.described.config import SystemConfig


def area_mm2(config: SystemConfig) -> float:
    """mm² of logic in memory, at 22 nm with the paper's share for DRAM's process; a GPU's die where there is one."""
    area = 0.0
    if config.retrieval.engine == "acceldimm":
        area += config.dimm.organisation.all_dimms * config.retrieval.devices * config.area.dimm_module_mm2
    if config.generation.engine == "gpu":
        return area + config.gpu.area_mm2 * config.generation.devices
    return area + _stack_modules(config)


def cost_usd(config: SystemConfig) -> float:
    """What a system costs to buy: memory by the GB, added logic by the mm², the host; a GPU by its price."""
    price, dimm, hbm, gigabyte = config.price, config.dimm, config.hbm, 1e9
    devices, engine = config.retrieval.devices, config.retrieval.engine
    ranks = dimm.organisation.all_ranks * devices if engine == "acceldimm" else config.retrieval.plain_ranks
    cost = price.host_usd + ranks * dimm.standard.organisation.rank_bytes / gigabyte * price.dimm_usd_a_gb
    a_gb = price.hbm_usd_a_gb if hbm.standard.kind.startswith("HBM") else price.dimm_usd_a_gb
    stacks = hbm.standard.organisation.bytes * hbm.stacks / gigabyte * a_gb
    if engine == "acceldimm":
        cost += dimm.organisation.all_dimms * devices * config.area.dimm_module_mm2 * price.logic_usd_a_mm2
    elif engine == "hbm":  # its own stacks, which the vectors come to
        cost += stacks * devices
    if config.generation.engine == "gpu":
        return cost + config.gpu.price_usd * config.generation.devices
    return cost + stacks * config.generation.devices + _stack_modules(config) * price.logic_usd_a_mm2


def _stack_modules(config: SystemConfig) -> float:
    """mm² of logic in the generation devices: the paper's area of a stack of 256 banks, others in proportion."""
    hbm = config.hbm
    stacks = hbm.banks_per_stack * hbm.stacks / 256
    return stacks * config.generation.devices * config.area.stack_module_mm2
