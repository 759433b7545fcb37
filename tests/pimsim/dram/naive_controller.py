"""The controller's rules once more, cycle by cycle in plain Python: slow, short, without the kernel's tricks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pimsim import Controller, Standard, Trace

NEVER = -(1 << 40)


@dataclass
class Request:
    number: int
    kind: str  # RD or WR
    rank: int
    group: int
    bank: int
    row: int
    column: int
    opened: bool = False  # a row, for this request


@dataclass
class Bank:
    rank: int
    group: int
    bank: int
    row: int | None = None
    owner: Request | None = None
    served: int = 0
    held: bool = False
    activated: int = NEVER
    closed: int = NEVER  # may lie ahead, if it closes by itself
    read: int = NEVER
    written: int = NEVER
    free: int = NEVER  # the end of its last refresh


@dataclass
class NaiveController:
    standard: Standard
    controller: Controller
    log: list[tuple] = field(default_factory=list)
    done: dict[int, int] = field(default_factory=dict)
    entered: dict[int, int] = field(default_factory=dict)

    def run(self, trace: Trace) -> list[tuple]:
        """Commands as (cycle, name, rank, bank group, bank, row, column), with -1 for what a command does not have."""
        size, self.t = self.standard.organisation, self.standard.timing
        self.banks = [
            Bank(rank, group, bank)
            for rank in range(size.ranks)
            for group in range(size.bank_groups)
            for bank in range(size.banks)
        ]
        self.waiting: dict[str, list[Request]] = {"RD": [], "WR": []}
        self.mode = "RD"
        self.columns: list[tuple[int, str, int, int]] = []
        self.activations: dict[int, list[tuple[int, int]]] = {rank: [] for rank in range(size.ranks)}
        per_bank = self.controller.refresh == "per-bank"
        period = self.t.tREFIpb if per_bank else self.t.tREFI
        self.due = dict.fromkeys(range(size.ranks), period if self.controller.refresh != "none" else 1 << 60)
        self.closing: dict[int, list[Bank]] = {}  # by rank: the banks that a refresh is due for
        turn = dict.fromkeys(range(size.ranks), 0)
        coming = [
            Request(i, "WR" if trace.write[i] else "RD", *(int(getattr(trace, name)[i]) for name in
                    ("rank", "bank_group", "bank", "row", "column")))
            for i in range(len(trace))
        ]  # fmt: skip
        now = 0
        while coming or self.waiting["RD"] or self.waiting["WR"]:
            room = coming and self._queued(coming[0].kind) < self.controller.queue
            if room and trace.cycle[coming[0].number] <= now:
                self._enter(coming.pop(0), now)
                if not (coming or self.waiting["RD"] or self.waiting["WR"]):
                    break
            for rank in self.due:
                if self.due[rank] <= now and rank not in self.closing:
                    mine = [bank for bank in self.banks if bank.rank == rank]
                    self.closing[rank] = [mine[turn[rank]]] if per_bank else mine
                    for bank in self.closing[rank]:
                        bank.held = True
                    turn[rank] = (turn[rank] + 1) % len(mine)
            if self.standard.command_buses == 1:
                if not self._refresh(now, per_bank, period):
                    self._command(now, ["RD", "WR", "ACT", "PRE"])
            else:
                self._two_commands(now, per_bank, period)
            now += 1
        return self.log

    def _two_commands(self, now: int, per_bank: bool, period: int) -> None:
        columns, rows = ["RD", "WR"], ["ACT", "PRE"]
        if self._refresh(now, per_bank, period):
            self._command(now, columns)
            return
        sent = self._command(now, columns + rows)
        if sent in columns and not self._refresh(now, per_bank, period):
            self._command(now, rows)
        elif sent in rows:
            self._command(now, columns)

    def _queued(self, kind: str) -> int:
        return sum(not request.opened for request in self.waiting[kind])

    def _enter(self, request: Request, now: int) -> None:
        self.entered[request.number] = now
        if request.kind == "WR":
            self.done[request.number] = now
        else:
            place = (request.rank, request.group, request.bank, request.row, request.column)
            if any((w.rank, w.group, w.bank, w.row, w.column) == place for w in self.waiting["WR"]):
                self.done[request.number] = now + 1
                return
        self.waiting[request.kind].append(request)
        self._set_mode()

    def _set_mode(self) -> None:
        reads, writes = self._queued("RD"), self._queued("WR")
        if self.mode == "RD":
            if writes > math.floor(self.controller.high_water * self.controller.queue) or (writes and not reads):
                self.mode = "WR"
        elif reads and writes < max(1, math.ceil(self.controller.low_water * self.controller.queue)):
            self.mode = "RD"

    def _refresh(self, now: int, per_bank: bool, period: int) -> bool:
        for rank in sorted(self.closing):
            banks = self.closing[rank]
            opened = [bank for bank in banks if bank.row is not None]
            if any(bank.owner for bank in banks):
                continue
            if opened:
                if all(self._may(now, "PRE", bank) for bank in opened):
                    for bank in opened:
                        bank.row, bank.closed = None, now
                    self._log(now, "PRE" if per_bank else "PREA", opened[0])
                    return True
            elif all(self._may_refresh(now, bank) for bank in banks):
                for bank in banks:
                    bank.free = now + (self.t.tRFCpb if per_bank else self.t.tRFC)
                    bank.held = False
                self._log(now, "REFB" if per_bank else "REF", banks[0])
                del self.closing[rank]
                self.due[rank] += period
                return True
        return False

    def _command(self, now: int, allowed: list[str]) -> str | None:
        ready = []
        for bank in self.banks:
            place = (bank.rank, bank.group, bank.bank)
            mine = [r for r in self.waiting[self.mode] if (r.rank, r.group, r.bank) == place]
            if not bank.owner and (not mine or bank.held):
                continue
            hits = [request for request in mine if request.row == bank.row]
            request = bank.owner or mine[0]
            if bank.owner:
                name = request.kind
            elif bank.row is None:
                name = "ACT"
            elif hits and (hits[0] is mine[0] or bank.served < self.controller.row_hit_cap):
                name, request = self.mode, hits[0]
            else:
                name = "PRE"
            if name in allowed and self._may(now, name, bank):
                ready.append((request is not bank.owner, request.number, name, bank, request))
        if not ready:
            return None
        _, _, name, bank, request = min(ready, key=lambda candidate: candidate[:2])
        sent = name
        if name == "ACT":
            bank.row, bank.activated, bank.served, bank.owner = request.row, now, 0, request
            request.opened = True
            self.activations[bank.rank].append((now, bank.group))
        elif name == "PRE":
            bank.row, bank.closed = None, now
        else:
            sent = self._column(now, name, bank, request)
        self._set_mode()
        self._log(now, sent, bank, request)
        return name

    def _column(self, now: int, name: str, bank: Bank, request: Request) -> str:
        t = self.t
        self.waiting[name].remove(request)
        bank.owner = None
        bank.served += 1
        self.columns.append((now, name, bank.rank, bank.group))
        if name == "RD":
            bank.read = now
            self.done[request.number] = now + t.tCL + t.tBL
        else:
            bank.written = now
        place = (bank.rank, bank.group, bank.bank, bank.row)
        wanted = any((r.rank, r.group, r.bank, r.row) == place for r in self.waiting["RD"] + self.waiting["WR"])
        if self.controller.page == "closed" and not wanted:
            bank.row = None
            bank.closed = max(bank.activated + t.tRAS, bank.read + t.tRTP, bank.written + t.tCWL + t.tBL + t.tWR)
            return name + "A"
        return name

    def _may_refresh(self, now: int, bank: Bank) -> bool:
        return now >= max(bank.closed + self.t.tRP, bank.activated + self.t.tRC, bank.free)

    def _may(self, now: int, name: str, bank: Bank) -> bool:
        t = self.t
        if name == "PRE":
            return now >= max(bank.activated + t.tRAS, bank.read + t.tRTP, bank.written + t.tCWL + t.tBL + t.tWR)
        if name == "ACT":
            if not self._may_refresh(now, bank):
                return False
            recent = self.activations[bank.rank]
            if len(recent) >= 4 and now < recent[-4][0] + t.tFAW:
                return False
            return all(now >= i + (t.tRRD_L if group == bank.group else t.tRRD_S) for i, group in recent[-8:])
        if now < bank.activated + t.tRCD:
            return False
        for i, kind, rank, group in self.columns[-24:]:
            same_group = (rank, group) == (bank.rank, bank.group)
            if kind == name:
                gap = (t.tCCD_L if same_group else t.tCCD_S) if rank == bank.rank else t.tBL + t.tRTRS
            elif name == "WR":
                gap = t.tCL + t.tBL + t.tRTRS - t.tCWL
            elif rank == bank.rank:
                gap = t.tCWL + t.tBL + (t.tWTR_L if same_group else t.tWTR_S)
            else:
                gap = t.tCWL + t.tBL + t.tRTRS - t.tCL
            if now < i + gap:
                return False
        return True

    def _log(self, now: int, name: str, bank: Bank, request: Request | None = None) -> None:
        group, number = (-1, -1) if name in ("PREA", "REF") else (bank.group, bank.bank)
        row = request.row if request and name != "PRE" else -1
        column = request.column if request and name[:2] in ("RD", "WR") else -1
        self.log.append((now, name, bank.rank, group, number, row, column))
