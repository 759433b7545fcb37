"""State: what one pseudo channel's controller works on, as records: its rules, its banks, what waits and what is due.

Compiled code passes a record on by its address, and arrays of records without counting references, as it would for
arrays in a struct or a tuple.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pimsim.standard import Timing

FAR = 1 << 60  # a cycle that never comes
NONE = -1  # no row, slot or request

# codes of commands, as the log has them; the first four are candidates of banks
READ, WRITE, ACTIVATE, PRECHARGE = 0, 1, 2, 3
READ_CLOSING, WRITE_CLOSING, PRECHARGE_ALL, REFRESH, REFRESH_BANK = 4, 5, 6, 7, 8

# a candidate in one number, the lower the sooner: cycles from now, order (2 bits), request (32 bits)
REQUEST_BITS, RANKING_BITS = 32, 34
REQUEST_MASK = (1 << REQUEST_BITS) - 1
LATEST = 1 << 28  # cycles from now: more than any timing
OF_REFRESH, OF_OWNER, OF_OTHERS = 0, 1, 2

# what is counted
READS, WRITES, FORWARDED, ACTIVATES, PRECHARGES = 0, 1, 2, 3, 4
REFRESHES, HITS, LAST_READ, LAST_DATA, LATENCY = 5, 6, 7, 8, 9
COUNTS = 10

LOG_COLUMNS = 4  # cycle, command, bank (the first of the rank for its refresh), request
FIRST_LOG = 1024  # commands for which a log has room at first


class Rules(NamedTuple):
    """The standard's timings, and what the controller does."""

    timing: Timing
    ranks: int
    bank_groups: int  # a rank
    banks: int  # a bank group
    queue: int  # reads, and as many writes
    high_water: int  # above this many writes they are sent
    low_water: int  # below this many reads are sent again
    row_hit_cap: int
    closed_page: int  # 0 or 1
    refresh: int  # 0 none, 1 all banks of a rank, 2 one bank
    buses: int  # for commands: 1, or 2, of which one is for columns

    @property
    def record(self) -> NDArray[np.void]:
        """As compiled code takes them: [1] of RULES."""
        timing, *rest = self
        return np.array([(*dataclasses.astuple(timing), *rest)], RULES)


# fields of Rules, with those of its timings in their place
RULES = np.dtype(
    [(part.name, np.int64) for part in dataclasses.fields(Timing)]
    + [(name, np.int64) for name in Rules._fields if name != "timing"]
)

BANK = np.dtype(
    [
        ("open_row", np.int64),  # or NONE
        ("can_activate", np.int64),  # the first cycle in which the bank itself allows a command
        ("can_column", np.int64),
        ("can_precharge", np.int64),
        ("served", np.int64),  # columns since the row was opened
        ("hit", np.int64),  # slot of the oldest request for the open row, of the kind that is served, or NONE
        ("held", np.int64),  # 1: a refresh is due
        ("owner", np.int64),  # slot of the request for which the row was opened, until its column, or NONE
        ("head", np.int64, 2),  # slots of the oldest read and write, or NONE
        ("tail", np.int64, 2),  # and of the youngest
        ("rank", np.int64),
        ("group", np.int64),  # of all ranks
        # the candidate: the command that the bank needs next
        ("ready", np.int64),  # when the bank itself allows it; FAR: there is none
        ("command", np.int64),
        ("gate", np.int64),  # which of the gates it must wait for
        ("ranking", np.int64),  # its order and its request
    ]
)

SLOT = np.dtype(
    [
        ("row", np.int64),
        ("column", np.int64),
        ("request", np.int64),
        ("entered", np.int64),
        ("kind", np.int64),  # READ or WRITE
        ("missed", np.int64),  # 1: a row was opened for it
        ("next", np.int64),  # the next younger of its kind and bank, or the next free slot; NONE: there is none
    ]
)

RANK = np.dtype(
    [
        ("activations", np.int64, 4),  # cycles of the last four, a ring
        ("ring", np.int64),  # where it begins
        ("due", np.int64),  # when its next refresh, or that of the next bank, falls due
        ("pending", np.int64),  # 1: it has fallen due, and holds the banks
        ("first_bank", np.int64),
        ("past_bank", np.int64),
        ("turn", np.int64),  # of the bank that is refreshed next
    ]
)

CONTROLLER = np.dtype(
    [
        ("counts", np.int64, COUNTS),
        ("queued", np.int64, 2),  # reads and writes that wait, less those whose row has been opened for them
        ("owners", np.int64),  # requests whose row has been opened for them
        ("free", np.int64),  # the first free slot
        ("mode", np.int64),  # READ or WRITE: what is served
        ("door", np.int64),  # the first cycle in which a request may enter
        ("bus", np.int64),  # the first cycle in which a command may be sent
        ("row_bus", np.int64),  # and one for rows, which may have a bus of their own
        ("pending", np.int64),  # ranks with a refresh that is due
        ("next_due", np.int64),  # when the next falls due
        ("stale", np.int64),  # 1: the best candidate must be looked for
        ("best", np.int64),  # in one number, with cycles from `base` on
        ("best_time", np.int64),  # FAR: there is none
        ("base", np.int64),
        ("logged", np.int64),
    ]
)


class State(NamedTuple):
    """All that changes while the requests of one pseudo channel are served."""

    controller: NDArray[np.void]  # [1] of CONTROLLER
    banks: NDArray[np.void]  # [banks] of BANK
    slots: NDArray[np.void]  # of SLOT: requests that wait for their row or their column
    ranks: NDArray[np.void]  # [ranks] of RANK
    # [4 * bank groups of all ranks], by command (READ, WRITE, ACTIVATE, PRECHARGE) and bank group: the first cycle that
    # the group, its rank and the channel allow
    gates: NDArray[np.int64]
    log: NDArray[np.int64]  # [room, LOG_COLUMNS]; no room: no log

    @classmethod
    def begin(cls, rules: Rules, *, logged: bool) -> State:
        """Before the first request: all rows closed, all queues empty."""
        groups = rules.ranks * rules.bank_groups
        banks = np.zeros(groups * rules.banks, BANK)
        for name in ("open_row", "hit", "owner", "head", "tail"):
            banks[name] = NONE
        banks["ready"] = FAR
        banks["group"] = np.arange(len(banks)) // rules.banks
        banks["rank"] = banks["group"] // rules.bank_groups
        slots = np.zeros(2 * rules.queue + len(banks), SLOT)
        slots["next"] = np.append(np.arange(1, len(slots)), NONE)
        ranks = np.zeros(rules.ranks, RANK)
        ranks["activations"] = -FAR
        controller = np.zeros(1, CONTROLLER)
        ranks["due"] = controller["next_due"] = (FAR, rules.timing.tREFI, rules.timing.tREFIpb)[rules.refresh]
        controller["stale"] = 1
        log = np.empty((FIRST_LOG if logged else 0, LOG_COLUMNS), np.int64)
        return cls(controller, banks, slots, ranks, np.zeros(4 * groups, np.int64), log)
