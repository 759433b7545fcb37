"""Reference: two plain readings of the command rules, which share no line with the kernel.

`replay` steps cycle by cycle through a channel's stream; `violations` takes commands that were issued and checks every
pair of them against each rule.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

from pimsim.hbm_pim.kernel import ACT, PRE, REF, CommandLog
from pimsim.hbm_pim.state import Rules
from pimsim.hbm_pim.stream import BARRIER, MAC, WRITE, Stream

COLUMN = (MAC, WRITE)


@dataclass
class Bank:
    """One slot: its row, and when its last commands went."""

    row: int | None = None
    act: float = -1e9
    column: float = -1e9
    wrote: float = -1e9
    pre: float = -1e9


@dataclass
class Channel:
    """The state of a channel, stepped from outside."""

    rules: Rules
    banks: list[Bank] = field(default_factory=list)
    acts: list[tuple[int, int]] = field(default_factory=list)  # (cycle, slot)
    columns: list[tuple[int, int]] = field(default_factory=list)
    moves: list[tuple[int, int]] = field(default_factory=list)  # (cycle, bank group)
    row_command: int = -(10**9)
    row_command_was_act: bool = False
    refreshed: float = -1e9

    def __post_init__(self) -> None:
        self.banks = [Bank() for _ in range(self.rules.slots)]

    def group(self, slot: int) -> int:
        return slot // self.rules.slots_per_group

    def stack_id(self, group: int) -> int:
        return group // self.rules.groups_per_stack_id

    def row_bus_free(self, now: int) -> bool:
        taken = self.rules.activate if self.row_command_was_act else 1
        return now >= self.row_command + taken

    def may_column(self, slot: int, now: int) -> bool:
        rules = self.rules
        if now < self.banks[slot].act + rules.rcd:
            return False
        for cycle, other in self.columns[-64:]:
            gap = rules.mac
            if self.group(other) == self.group(slot):
                gap = max(gap, rules.mac_group)
            if self.stack_id(self.group(other)) == self.stack_id(self.group(slot)):
                gap = max(gap, rules.mac_stack_id)
            if now < cycle + gap:
                return False
        return True

    def may_move(self, group: int, now: int) -> bool:
        rules = self.rules
        for cycle, other in self.moves[-64:]:
            gap = rules.move
            if other == group:
                gap = max(gap, rules.move_group)
            if self.stack_id(other) == self.stack_id(group):
                gap = max(gap, rules.move_stack_id)
            if now < cycle + gap:
                return False
        return True

    def may_precharge(self, slot: int, now: int) -> bool:
        bank, rules = self.banks[slot], self.rules
        write = bank.wrote + rules.write_to_precharge
        return now >= max(bank.act + rules.ras, bank.column + rules.rtp, write) and self.row_bus_free(now)

    def may_activate(self, slot: int, now: int) -> bool:
        bank, rules = self.banks[slot], self.rules
        if not self.row_bus_free(now) or now < max(
            bank.pre + rules.rp, bank.act + rules.rc, self.refreshed + rules.rfc
        ):
            return False
        stack_id = self.stack_id(self.group(slot))
        same_id = [cycle for cycle, other in self.acts if self.stack_id(self.group(other)) == stack_id]
        if rules.faw and len(same_id) >= 4 and now < same_id[-4] + rules.faw:
            return False
        if same_id and now < same_id[-1] + rules.rrd_stack_id:
            return False
        same_group = [cycle for cycle, other in self.acts if self.group(other) == self.group(slot)]
        return not same_group or now >= same_group[-1] + rules.rrd_group


def replay(stream: Stream, rules: Rules) -> tuple[int, int, int, int]:
    """Cycle of the last command, ACTs, PREs and refreshes, found by trying every cycle."""
    requests = list(zip(stream.kind.tolist(), stream.slot.tolist(), stream.row.tolist(), strict=True))
    channel = Channel(rules)
    window: list[int] = []
    fetched = now = last = activates = precharges = refreshes = 0
    due = rules.refi if rules.refi else 1 << 60
    while window or fetched < len(requests):
        now += 1
        while len(window) < rules.window and fetched < len(requests):
            window.append(fetched)
            fetched += 1
            while window and requests[window[0]][0] == BARRIER:
                window.pop(0)
        while window and requests[window[0]][0] == BARRIER:
            window.pop(0)
            if fetched < len(requests):
                window.append(fetched)
                fetched += 1
        if not window:
            break
        if now >= due:
            closing = [slot for slot, bank in enumerate(channel.banks) if bank.row is not None]
            for slot in closing:
                if channel.may_precharge(slot, now):
                    channel.banks[slot].row, channel.banks[slot].pre = None, now
                    precharges += 1
                    last = now
            still = any(bank.row is not None for bank in channel.banks)
            if not still and channel.row_bus_free(now) and all(now >= bank.pre + rules.rp for bank in channel.banks):
                channel.refreshed, channel.row_command, channel.row_command_was_act = now, now, False
                refreshes += 1
                due += rules.refi
                last = now
            continue
        column, row = _picked(channel, requests, window, now)
        if row is not None:
            _, slot, wanted = requests[window[row]]
            bank = channel.banks[slot]
            channel.row_command, channel.row_command_was_act = now, bank.row is None
            if bank.row is None:
                bank.row, bank.act = wanted, now
                channel.acts.append((now, slot))
                activates += 1
            else:
                bank.row, bank.pre = None, now
                precharges += 1
            last = now
        if column is not None:
            kind, slot, _ = requests[window.pop(column)]
            if kind in COLUMN:
                channel.columns.append((now, slot))
                if kind == MAC:
                    channel.banks[slot].column = now
                else:
                    channel.banks[slot].wrote = now
            else:
                channel.moves.append((now, slot))
            last = now
    return last, activates, precharges, refreshes


def _picked(
    channel: Channel, requests: list[tuple[int, int, int]], window: list[int], now: int
) -> tuple[int | None, int | None]:
    """Places in the window of the first column and the first row command that may go now."""
    column = row = None
    barrier = False
    for place, index in enumerate(window):
        kind, slot, wanted = requests[index]
        if kind == BARRIER:
            barrier = True
        elif kind not in COLUMN:
            if column is None and not barrier and channel.may_move(slot, now):
                column = place
        elif channel.banks[slot].row == wanted:
            if column is None and not barrier and channel.may_column(slot, now):
                column = place
        elif row is None:
            if channel.banks[slot].row is None:
                if channel.may_activate(slot, now):
                    row = place
            else:
                hit = any(
                    requests[other][0] in COLUMN
                    and requests[other][1] == slot
                    and requests[other][2] == channel.banks[slot].row
                    for other in window
                )
                if not hit and channel.may_precharge(slot, now):
                    row = place
    return column, row


def _apart(broken: list[str], name: str, earlier: int, later: int, least: int) -> None:
    if later - earlier < least:
        broken.append(f"{name}: cycles {earlier} and {later} are not {least} apart")


def _check_slot(broken: list[str], slot: int, series: list[tuple[int, int, int]], rules: Rules) -> None:
    """Add what breaks a rule of one slot, whose commands are (cycle, kind, row)."""
    apart = partial(_apart, broken)
    is_open, act, column, wrote, pre = None, None, None, None, None
    for cycle, kind, row in series:
        if kind == ACT:
            if is_open is not None:
                broken.append(f"slot {slot}: ACT at {cycle} on an open row")
            if pre is not None:
                apart(f"slot {slot} PRE to ACT", pre, cycle, rules.rp)
            if act is not None:
                apart(f"slot {slot} ACT to ACT", act, cycle, rules.rc)
            is_open, act, column, wrote = row, cycle, None, None
        elif kind == PRE:
            if is_open is None:
                broken.append(f"slot {slot}: PRE at {cycle} on a closed row")
            apart(f"slot {slot} ACT to PRE", act, cycle, rules.ras)
            if column is not None:
                apart(f"slot {slot} MAC to PRE", column, cycle, rules.rtp)
            if wrote is not None:
                apart(f"slot {slot} write to PRE", wrote, cycle, rules.write_to_precharge)
            is_open, pre = None, cycle
        else:
            if is_open != row:
                broken.append(f"slot {slot}: row {row} at {cycle}, but {is_open} is open")
            if act is not None:
                apart(f"slot {slot} ACT to MAC", act, cycle, rules.rcd)
            if kind == MAC:
                column = cycle
            else:
                wrote = cycle


def violations(log: CommandLog, rules: Rules) -> list[str]:
    """What breaks a rule, in words; empty for commands that keep them all."""
    broken: list[str] = []
    commands = list(zip(*(array.tolist() for array in log), strict=True))
    by_slot = defaultdict(list)
    acts, macs, moves, refreshes, closes = [], [], [], [], []

    apart = partial(_apart, broken)

    for cycle, kind, slot, row, _ in commands:
        if kind in (ACT, PRE, *COLUMN):
            by_slot[slot].append((cycle, kind, row))
        if kind == ACT:
            acts.append((cycle, slot))
        elif kind in COLUMN:
            macs.append((cycle, slot))
        elif kind == PRE:
            closes.append(cycle)
        elif kind == REF:
            refreshes.append(cycle)
        else:
            moves.append((cycle, slot))

    for slot, series in by_slot.items():
        _check_slot(broken, slot, series, rules)

    def spaced(name: str, series: list[tuple[int, int]], every: int, key, least: int) -> None:
        if least:
            latest: dict[int, list[int]] = defaultdict(list)
            for cycle, slot in series:
                before = latest[key(slot)]
                if len(before) >= every:
                    apart(name, before[-every], cycle, least)
                before.append(cycle)

    def everywhere(_: int) -> int:
        return 0

    def group(slot: int) -> int:
        return slot // rules.slots_per_group

    def stack_id(slot: int) -> int:
        return group(slot) // rules.groups_per_stack_id

    spaced("MAC to MAC", macs, 1, everywhere, rules.mac)
    spaced("MAC to MAC of a stack ID", macs, 1, stack_id, rules.mac_stack_id)
    spaced("MAC to MAC of a bank group", macs, 1, group, rules.mac_group)
    spaced("ACT to ACT on the row bus", acts, 1, everywhere, rules.activate)
    spaced("ACT to ACT of a stack ID", acts, 1, stack_id, rules.rrd_stack_id)
    spaced("ACT to ACT of a bank group", acts, 1, group, rules.rrd_group)
    spaced("five ACTs", acts, 4, stack_id, rules.faw)
    spaced("move to move", moves, 1, everywhere, rules.move)
    spaced("move to move of a bank group", moves, 1, lambda to: to, rules.move_group)
    spaced("move to move of a stack ID", moves, 1, lambda to: to // rules.groups_per_stack_id, rules.move_stack_id)
    spaced("column commands", sorted(macs + moves), 1, everywhere, 1)
    opened = sorted(cycle for cycle, _ in acts)
    for number, cycle in enumerate(refreshes, 1):
        apart("refresh before it is due", number * rules.refi, cycle, 0)
        for before in closes:
            if before <= cycle:
                apart("PRE to REF", before, cycle, rules.rp)
        for after in opened:
            if after >= cycle:
                apart("REF to ACT", cycle, after, rules.rfc)
                break
    return broken
