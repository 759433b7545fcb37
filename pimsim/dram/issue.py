"""Issue: ACT, PRE, RD and WR as they are sent: what each changes in its bank, and when others may follow; compiled."""

from typing import Any

from pimsim.compiled import inlined
from pimsim.dram.queue import oldest_hit, remove
from pimsim.dram.state import (
    ACTIVATE,
    ACTIVATES,
    HITS,
    LAST_DATA,
    LAST_READ,
    LATENCY,
    NONE,
    PRECHARGES,
    READ,
    READ_CLOSING,
    WRITE,
)


@inlined
def activate(r: Any, c: Any, bank: Any, slots: Any, now: Any) -> None:
    """Open the row of a bank's candidate, which owns it then."""
    slot = bank.head[c.mode]
    c.row_bus = now + 1
    c.door = max(c.door, now + 1)  # the request that waits for room sees it in the next cycle
    c.queued[c.mode] -= 1
    c.owners += 1
    c.counts[ACTIVATES] += 1
    slots[slot].missed = 1
    bank.owner = slot
    bank.open_row = slots[slot].row
    bank.served = 0
    bank.hit = slot  # the oldest of the bank
    bank.can_column = now + r.tRCD
    bank.can_precharge = now + r.tRAS
    bank.can_activate = now + r.tRC


@inlined
def gate_activations(r: Any, rank: Any, gates: Any, now: Any, bank: Any) -> None:
    """Keep the activations of a rank apart after one of this bank of it."""
    rank.activations[rank.ring] = now
    rank.ring = (rank.ring + 1) & 3
    window = rank.activations[rank.ring] + r.tFAW  # the fourth last, and the next makes five
    first = ACTIVATE * r.ranks * r.bank_groups
    first_group = bank.rank * r.bank_groups
    for other in range(first_group, first_group + r.bank_groups):
        gap = r.tRRD_L if other == bank.group else r.tRRD_S
        gates[first + other] = max(gates[first + other], now + gap, window)


@inlined
def precharge(r: Any, c: Any, bank: Any, now: Any) -> None:
    """Close the row of a bank."""
    c.row_bus = now + 1
    c.counts[PRECHARGES] += 1
    bank.open_row = bank.hit = NONE
    bank.can_activate = max(bank.can_activate, now + r.tRP)


@inlined
def column(r: Any, c: Any, bank: Any, slots: Any, now: Any, kind: Any) -> Any:
    """Read or write the column of a bank's candidate; returns the command, which may close the row by itself."""
    slot, counts = bank.hit if bank.owner == NONE else bank.owner, c.counts
    remove(bank, slots, kind, slot)
    slots[slot].next, c.free = c.free, slot
    if bank.owner == slot:
        bank.owner = NONE
        c.owners -= 1
    else:
        c.door = max(c.door, now + 1)
        c.queued[kind] -= 1
    bank.served += 1
    counts[HITS] += 1 - slots[slot].missed
    finish = column_end(r, kind, now)
    if kind == READ:
        counts[LATENCY] += finish - slots[slot].entered
        counts[LAST_READ] = max(counts[LAST_READ], finish)
        bank.can_precharge = max(bank.can_precharge, now + r.tRTP)
    else:
        bank.can_precharge = max(bank.can_precharge, finish + r.tWR)
    counts[LAST_DATA] = max(counts[LAST_DATA], finish)
    bank.hit = oldest_hit(bank, slots, c.mode)
    if r.closed_page and bank.hit == NONE and oldest_hit(bank, slots, 1 - c.mode) == NONE:
        # it closes by itself as soon as it may
        counts[PRECHARGES] += 1
        bank.open_row = NONE
        bank.can_activate = max(bank.can_activate, bank.can_precharge + r.tRP)
        return kind + READ_CLOSING
    return kind


@inlined
def column_end(r: Any, kind: Any, now: Any) -> Any:
    """The cycle in which the last byte of a column that is read or written now has crossed the bus."""
    return now + (r.tCL if kind == READ else r.tCWL) + r.tBL


@inlined
def gate_columns(r: Any, gates: Any, now: Any, bank: Any, kind: Any) -> None:
    """Keep the columns of all ranks apart after one of this bank was read or written."""
    first_group = bank.rank * r.bank_groups
    if kind == READ:
        turn = max(r.tCL + r.tBL + r.tRTRS - r.tCWL, 1)
    else:
        turn = max(r.tCWL + r.tBL + r.tRTRS - r.tCL, 1)
    groups = r.ranks * r.bank_groups
    same, opposite = kind * groups, (1 - kind) * groups
    for other in range(groups):
        gap, turnaround = r.tBL + r.tRTRS, turn
        if first_group <= other < first_group + r.bank_groups:  # the same rank
            gap = r.tCCD_L if other == bank.group else r.tCCD_S
            if kind == WRITE:
                turnaround = r.tCWL + r.tBL + (r.tWTR_L if other == bank.group else r.tWTR_S)
        gates[same + other] = max(gates[same + other], now + gap)
        gates[opposite + other] = max(gates[opposite + other], now + turnaround)
