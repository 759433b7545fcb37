"""Energy of a simulated trace: activations and bursts by the terms of a table. Refresh and standby are not in them."""

from __future__ import annotations

from typing import Any

from pimsim.dram import kernel
from pimsim.energy import EnergyTable
from pimsim.standard import Standard

ACTIVATION_PER_BIT = "activate"  # tables that spread an activation over the bits read


def energy_nj(table: EnergyTable, standard: Standard, counts: Any) -> dict[str, float]:
    """nJ by what it was spent for: activate_precharge, read, write, and their total.

    Terms per bit are paid for each bit that a burst moves; `read`, `write` and `activate_precharge` are of one command.
    """
    bursts = {"read": int(counts[kernel.READS] - counts[kernel.FORWARDED]), "write": int(counts[kernel.WRITES])}
    bits = 8 * standard.organisation.burst_bytes
    per_bit = [term for term in table.terms.values() if term.unit in ("pJ/bit", "pJ/64bit")]
    activation = table.get("activate_precharge").nj(int(counts[kernel.ACTIVATES]))
    spent = {"activate_precharge": activation}
    for kind, count in bursts.items():
        spent[kind] = table.get(kind).nj(count)
        for term in per_bit:
            where = "activate_precharge" if term.name == ACTIVATION_PER_BIT else kind
            spent[where] += term.nj(count * bits)
    return {**spent, "total": sum(spent.values())}
