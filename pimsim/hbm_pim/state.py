"""State: what one channel's controller works on, as records: its rules, its slots, what they wait for, and its log."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEVER = -(1 << 40)  # a cycle before all others
FAR = 1 << 60  # a cycle that never comes
CLOSED = -1  # no row


class Rules(NamedTuple):
    """Timing of one channel at one level, in cycles; slots as `stream` explains them."""

    slots: int
    slots_per_group: int  # slots of one bank group, for the rules between banks
    groups_per_stack_id: int
    stack_ids: int
    activate: int  # cycles that ACT takes on the row bus
    rcd: int
    rp: int
    ras: int
    rc: int
    rtp: int
    write_to_precharge: int
    mac: int  # MAC → MAC in the channel
    mac_stack_id: int
    mac_group: int
    rrd_stack_id: int
    rrd_group: int
    faw: int
    move: int  # move → move in the channel
    move_stack_id: int
    move_group: int
    rfc: int
    refi: int  # 0: no refresh
    window: int


RULES = np.dtype([(name, np.int64) for name in Rules._fields])


@lru_cache(maxsize=64)
def as_record(rules: Rules) -> NDArray[np.void]:
    """The rules as compiled code wants them: [1] of RULES, to be read only."""
    return np.array([rules], RULES)


SLOT = np.dtype(
    [
        ("open_row", np.int64),  # or CLOSED
        ("may_act", np.int64),  # the first cycle in which the slot itself allows it
        ("may_mac", np.int64),
        ("may_pre", np.int64),
        ("hits", np.int64),  # requests of the window for the row that is open
        ("group", np.int64),  # where it belongs
        ("stack_id", np.int64),
    ]
)

GROUP = np.dtype(  # of banks, counted over the stack IDs
    [
        ("may_act", np.int64),  # the first cycle in which the group allows it
        ("may_mac", np.int64),
        ("may_move", np.int64),
        ("stack_id", np.int64),  # where it belongs
    ]
)

STACK_ID = np.dtype(
    [
        ("may_act", np.int64),  # the first cycle in which the stack ID allows it
        ("may_mac", np.int64),
        ("may_move", np.int64),
        ("acts", np.int64, 4),  # cycles of the last four, a ring
        ("ring", np.int64),  # where it begins
    ]
)

CONTROLLER = np.dtype(
    [
        ("now", np.int64),
        ("fetched", np.int64),  # requests of the stream that have come into the window
        ("waiting", np.int64),  # requests in the window
        ("may_mac", np.int64),  # the first cycle in which the channel allows a MAC or a write
        ("may_move", np.int64),
        ("row_bus", np.int64),  # the first cycle in which it is free
        ("refresh_due", np.int64),
        ("closed_at", np.int64),  # from when REF may go, as all rows are precharged
        ("last", np.int64),  # cycle of the last command
        ("activates", np.int64),
        ("precharges", np.int64),
        ("refreshes", np.int64),
        ("logged", np.int64),
    ]
)

LINE = np.dtype(  # of the log
    [("cycle", np.int64), ("kind", np.int8), ("slot", np.int16), ("row", np.int32), ("column", np.int16)], align=True
)


class State(NamedTuple):
    """All that changes while the requests of one channel are turned into commands."""

    controller: NDArray[np.void]  # [1] of CONTROLLER
    slots: NDArray[np.void]  # [slots] of SLOT
    groups: NDArray[np.void]  # [bank groups of all stack IDs] of GROUP
    stack_ids: NDArray[np.void]  # [stack IDs] of STACK_ID
    window: NDArray[np.int64]  # numbers of the requests that wait, in order

    @classmethod
    def begin(cls, rules: Rules) -> State:
        """Before the first request: all rows closed, no rule in the way."""
        return cls._make(table.copy() for table in _beginning(rules))


@lru_cache(maxsize=64)
def _beginning(rules: Rules) -> State:
    controller = np.zeros(1, CONTROLLER)
    slots = np.zeros(rules.slots, SLOT)
    groups = np.zeros(rules.groups_per_stack_id * rules.stack_ids, GROUP)
    stack_ids = np.zeros(rules.stack_ids, STACK_ID)
    for table in (controller, slots, groups, stack_ids):
        for name in table.dtype.names or ():
            if name.startswith("may_") or name in ("acts", "row_bus", "closed_at"):
                table[name] = NEVER
    controller["now"] = 1
    controller["refresh_due"] = rules.refi if rules.refi > 0 else FAR
    slots["open_row"] = CLOSED
    slots["group"] = np.arange(rules.slots) // rules.slots_per_group
    slots["stack_id"] = slots["group"] // rules.groups_per_stack_id
    groups["stack_id"] = np.arange(len(groups)) // rules.groups_per_stack_id
    return State(controller, slots, groups, stack_ids, np.empty(rules.window, np.int64))
