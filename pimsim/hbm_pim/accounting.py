"""Accounting: what the commands of a product cost in nJ, and which limit its time comes near."""

from __future__ import annotations

from collections.abc import Mapping

from pimsim.energy import Term
from pimsim.hbm_pim.device import Device
from pimsim.hbm_pim.mapping import UNIT_OF, Spread
from pimsim.hbm_pim.state import Rules


def energy_nj(
    device: Device, level: str, *, macs: float, vectors: int, activates: float, loads: float, moves: float
) -> dict[str, float]:
    """nJ by part, and their `total`, of the commands of a product over all channels.

    `macs` counts MAC commands, `activates` ACTs of slots, `loads` moves of 32 bytes into a stack, `moves` those within
    it. `compute` is what the units take: the table's ratio to a read at the bank (row and cells), for each of
    `vectors`.
    """
    organisation = device.standard.organisation
    column_bits = organisation.burst_bytes * 8
    row_bits = column_bits * organisation.columns
    spread = Spread.of(device, level)
    table, paths = device.table, device.paths
    bits = macs * spread.banks_per_slot * column_bits
    rows = activates * spread.banks_per_slot

    def path(names: tuple[str, ...]) -> float:
        return sum(table[name].nj(1) for name in names)  # nJ a bit

    opening = _row_nj(table[paths.activate], row_bits)
    at_bank = path(paths.bank) + opening / row_bits
    parts = {
        "activate": rows * opening,
        "read": bits * path(getattr(paths, UNIT_OF[level])),
        "compute": bits * vectors * table[paths.compute].value * at_bank,
        "load": loads * column_bits * path(paths.load),
        "move": moves * column_bits * path(paths.move),
    }
    return {**parts, "total": sum(parts.values())}


def _row_nj(term: Term, row_bits: int) -> float:
    """nJ to open and close a row of one bank, which tables give by the row or by the bit of it."""
    return term.nj(row_bits if term.unit == "pJ/bit" else 1)


def mac_limit(device: Device, level: str, rules: Rules, *, power_limit: bool) -> str:
    """Name of what holds two MACs of a channel apart: compute, power limit, data bus or column interval."""
    if level == "buffer":
        base, limited = device.standard.timing.tBL, False
    else:
        name = "mac_bank" if level == "bank" else "mac_bank_group"
        free = getattr(device.timing, name)
        base = getattr(device.timing, f"{name}_power_limit") if power_limit else free
        limited = base > free
    if rules.mac > base:
        return "compute"
    if limited:
        return "power limit"
    return "data bus" if level == "buffer" else "column interval"


def opening_limit(rules: Rules, activates: int) -> int:
    """Cycles that `activates` ACTs of a channel take at least, one after the other."""
    a_window = rules.faw * activates // (4 * rules.stack_ids)
    return max(rules.activate * activates, a_window)


def tightest(limits: Mapping[str, float]) -> list[tuple[str, float]]:
    """Limits in cycles by name, the one that holds first; ties by name."""
    return sorted(
        ((name, cycles) for name, cycles in limits.items() if cycles > 0), key=lambda pair: (-pair[1], pair[0])
    )
