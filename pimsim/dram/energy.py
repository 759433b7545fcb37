"""Energy of a simulated trace: activations, bursts, refreshes and standby, by the terms of a table."""

from __future__ import annotations

from typing import Any

from pimsim.dram import state
from pimsim.energy import EnergyTable
from pimsim.standard import Standard

ACTIVATION_PER_BIT = "activate"  # tables that spread an activation over the bits read


def energy_nj(table: EnergyTable, standard: Standard, counts: Any, *, by_bank: bool) -> dict[str, float]:
    """nJ by what it was spent for: activate_precharge, read, write, refresh, background, and their total.

    Terms per bit are paid for each bit that a burst moves; `read`, `write` and `activate_precharge` are of one command,
    `refresh` is of all banks of a rank (a refresh of one bank, `by_bank`, costs its share), and `background` is what a
    rank takes all the time, until the last burst is done. What a table leaves out is 0.
    """
    organisation = standard.organisation
    bursts = {"read": int(counts[state.READS] - counts[state.FORWARDED]), "write": int(counts[state.WRITES])}
    bits = 8 * organisation.burst_bytes
    per_bit = [term for term in table.terms.values() if term.unit in ("pJ/bit", "pJ/64bit")]
    activation = table.get("activate_precharge").nj(int(counts[state.ACTIVATES]))
    spent = {"activate_precharge": activation}
    for kind, count in bursts.items():
        spent[kind] = table.get(kind).nj(count)
        for term in per_bit:
            where = "activate_precharge" if term.name == ACTIVATION_PER_BIT else kind
            spent[where] += term.nj(count * bits)
    refreshed = int(counts[state.REFRESHES]) / (organisation.banks_per_rank if by_bank else 1)
    ranks = organisation.channels * organisation.pseudo_channels * organisation.ranks
    spent["refresh"] = table.get("refresh").nj(refreshed)
    spent["background"] = table.get("background").nj(ranks * standard.ns(int(counts[state.LAST_DATA])))
    return {**spent, "total": sum(spent.values())}
