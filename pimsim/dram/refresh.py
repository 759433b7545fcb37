"""Refresh: when refreshes fall due, which banks they close, and how they are sent; compiled.

A refresh is of all banks of a rank, or of one bank of it, each in turn. From when it falls due its banks take no more
requests; their rows close together, and the refresh follows.
"""

from typing import Any

from pimsim.compiled import part
from pimsim.dram.queue import choose
from pimsim.dram.state import (
    FAR,
    LATEST,
    NONE,
    PRECHARGE,
    PRECHARGE_ALL,
    PRECHARGES,
    RANKING_BITS,
    REFRESH,
    REFRESH_BANK,
    REFRESHES,
)

PER_BANK = 2  # of Rules.refresh


@part
def fall_due(r: Any, c: Any, banks: Any, slots: Any, ranks: Any) -> None:
    """Hold the banks of each refresh that is due at `next_due`."""
    c.bus = max(c.bus, c.next_due)
    c.stale = 1
    per_rank = r.bank_groups * r.banks
    later = FAR
    for number in range(r.ranks):
        rank = ranks[number]
        if rank.due <= c.next_due and not rank.pending:
            c.pending += 1
            rank.pending = 1
            rank.first_bank = number * per_rank + (rank.turn if r.refresh == PER_BANK else 0)
            rank.past_bank = rank.first_bank + (1 if r.refresh == PER_BANK else per_rank)
            for bank in range(rank.first_bank, rank.past_bank):
                banks[bank].held = 1
                choose(r, c, banks, slots, bank)
        if not rank.pending:
            later = min(later, rank.due)
    c.next_due = later


@part
def best_refresh(c: Any, banks: Any, ranks: Any, best: Any) -> Any:
    """The better of `best` and the refreshes that are pending, or their precharges, ranked as the best candidate is."""
    for number in range(ranks.shape[0]):
        if not ranks[number].pending:
            continue
        is_open = False
        closing = closed = max(c.bus, c.row_bus)
        for other in range(ranks[number].first_bank, ranks[number].past_bank):
            bank = banks[other]
            if bank.owner != NONE:  # a row is not opened for nothing
                closing = LATEST + c.base
                is_open = True
            closed = max(closed, bank.can_activate)
            if bank.open_row != NONE:
                is_open = True
                closing = max(closing, bank.can_precharge)
        ready = closing if is_open else closed
        best = min(best, (min(ready - c.base, LATEST) << RANKING_BITS) + number)
    return best


@part
def send_refresh(r: Any, c: Any, banks: Any, slots: Any, rank: Any, now: Any) -> Any:
    """Close the banks of a rank's refresh or, if they are closed, refresh them; returns the command."""
    per_bank = r.refresh == PER_BANK
    c.row_bus = now + 1
    was_open = False
    for number in range(rank.first_bank, rank.past_bank):
        bank = banks[number]
        if bank.open_row != NONE:
            was_open = True
            bank.open_row = bank.hit = NONE
            bank.can_activate = max(bank.can_activate, now + r.tRP)
            c.counts[PRECHARGES] += 1
    if was_open:
        return PRECHARGE if per_bank else PRECHARGE_ALL
    c.counts[REFRESHES] += 1
    for number in range(rank.first_bank, rank.past_bank):
        banks[number].can_activate = now + (r.tRFCpb if per_bank else r.tRFC)
        banks[number].held = 0
        choose(r, c, banks, slots, number)
    c.pending -= 1
    rank.pending = 0
    rank.turn = (rank.turn + 1) % (r.bank_groups * r.banks)
    rank.due += r.tREFIpb if per_bank else r.tREFI
    c.next_due = min(c.next_due, rank.due)
    return REFRESH_BANK if per_bank else REFRESH
