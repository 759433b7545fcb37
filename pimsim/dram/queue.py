"""Queue: the requests that wait at each bank, oldest first, and the command that each bank needs next; compiled.

A request waits in the queue until its row is opened for it or, where it finds it open, until its column is sent. The
request for which a row was opened owns the row: it is not closed before the owner's column, which is sent whether reads
or writes are being served.
"""

from typing import Any

from pimsim.compiled import inlined, part
from pimsim.dram.state import ACTIVATE, FAR, NONE, OF_OTHERS, OF_OWNER, PRECHARGE, READ, REQUEST_BITS, WRITE


@inlined
def append(bank: Any, slots: Any, kind: Any, slot: Any) -> None:
    """Add the request in `slot` at the end of a bank's reads or writes."""
    slots[slot].next = NONE
    tail = bank.tail[kind]
    if tail == NONE:
        bank.head[kind] = slot
    else:
        slots[tail].next = slot
    bank.tail[kind] = slot


@inlined
def remove(bank: Any, slots: Any, kind: Any, slot: Any) -> None:
    """Take the request in `slot` out of its bank's reads or writes; the slot itself stays in use."""
    before, after = bank.head[kind], slots[slot].next
    if before == slot:
        bank.head[kind] = after
        before = NONE
    else:
        while slots[before].next != slot:
            before = slots[before].next
        slots[before].next = after
    if after == NONE:
        bank.tail[kind] = before


@inlined
def oldest_hit(bank: Any, slots: Any, kind: Any) -> Any:
    """The slot of a bank's oldest read or write for the row that is open, or NONE."""
    slot, row = bank.head[kind], bank.open_row
    while slot != NONE and slots[slot].row != row:
        slot = slots[slot].next
    return slot


@inlined
def waiting_write(bank: Any, slots: Any, row: Any, column: Any) -> Any:
    """The slot of a bank's oldest write to this row and column, or NONE."""
    slot = bank.head[WRITE]
    while slot != NONE and not (slots[slot].row == row and slots[slot].column == column):
        slot = slots[slot].next
    return slot


@inlined
def choose(r: Any, c: Any, banks: Any, slots: Any, number: Any) -> None:
    """Make the command that a bank needs next its candidate, from the first cycle that the bank itself allows."""
    bank = banks[number]
    slot = bank.owner
    if slot != NONE:
        order, command = OF_OWNER, slots[slot].kind
        bank.ready = bank.can_column
    else:
        order, slot = OF_OTHERS, bank.head[c.mode]
        if slot == NONE or bank.held:
            bank.ready = FAR
            return
        if bank.open_row == NONE:
            command = ACTIVATE
            bank.ready = bank.can_activate
        elif bank.hit != NONE and (bank.hit == slot or bank.served < r.row_hit_cap):
            slot, command = bank.hit, c.mode
            bank.ready = bank.can_column
        else:
            command = PRECHARGE
            bank.ready = bank.can_precharge
    bank.command = command
    bank.gate = command * r.ranks * r.bank_groups + bank.group
    bank.ranking = (order << REQUEST_BITS) + slots[slot].request


@inlined
def change_over(r: Any, c: Any, banks: Any, slots: Any) -> Any:
    """Serve the other kind of requests from now on, if it is time; returns whether it was.

    Writes are served when there are more than the high water mark, or no read waits; reads again when less than the low
    water mark are left.
    """
    reads, writes = c.queued[READ], c.queued[WRITE]
    if c.mode == READ:
        wanted = WRITE if writes > r.high_water or (reads == 0 and writes > 0) else READ
    else:
        wanted = READ if reads > 0 and writes < r.low_water else WRITE
    if wanted == c.mode:
        return False
    c.mode = wanted
    _choose_all(r, c, banks, slots)
    return True


@part
def _choose_all(r: Any, c: Any, banks: Any, slots: Any) -> None:
    for number in range(banks.shape[0]):
        banks[number].hit = oldest_hit(banks[number], slots, c.mode)
        choose(r, c, banks, slots, number)
