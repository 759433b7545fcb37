"""A checker that knows the timings, and nothing of the kernel: it holds a command log against each of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from pimsim import Standard
from pimsim.dram.commands import CommandLog


@dataclass
class BankHistory:
    """What one bank has seen."""

    row: int | None = None
    activated: int | None = None
    precharged: int | None = None
    read: int | None = None
    written: int | None = None
    refreshed: int | None = None  # the end of its last refresh


@dataclass
class Checker:
    """`slack`: by timing, the least number of cycles by which it was kept; below 0 it was broken."""

    standard: Standard
    slack: dict[str, int] = field(default_factory=dict)

    def check(self, log: CommandLog) -> dict[str, int]:
        """The slack of each timing that mattered; AssertionError where a bank is not in the state a command needs."""
        for channel in sorted(set(log.channel.tolist())):
            mine = log.channel == channel
            parts = [getattr(log, name)[mine].tolist() for name in log.__slots__ if name != "channel"]
            self._channel(list(zip(*parts, strict=True)))
        return self.slack

    def _keep(self, name: str, now: int, since: int | None, gap: int) -> None:
        if since is not None:
            self.slack[name] = min(self.slack.get(name, 1 << 60), now - since - gap)

    def _channel(self, commands: list[tuple]) -> None:
        t = self.standard.timing
        banks: dict[tuple[int, int, int], BankHistory] = defaultdict(BankHistory)
        activations: dict[int, list[tuple[int, int]]] = defaultdict(list)
        columns: list[tuple[int, str, int, int]] = []
        bursts: list[tuple[int, str, int]] = []
        buses = self.standard.command_buses
        before = dict.fromkeys(("row", "column"), -1)
        for now, name, rank, group, bank, row, _ in commands:
            bus = "column" if buses == 2 and name[:2] in ("RD", "WR") else "row"
            assert now > before[bus], f"two commands in cycle {now}"
            before[bus] = now
            if name == "PREA":
                for (of, *_), history in banks.items():
                    if of == rank and history.row is not None:
                        self._close(history, now)
                continue
            if name == "REF":
                for (of, *_), history in banks.items():
                    if of == rank:
                        self._refresh(history, now)
                        history.refreshed = now + t.tRFC
                # no bank of the rank is exempt, even one that has seen nothing yet
                for other in range(self.standard.organisation.banks_per_rank):
                    size = self.standard.organisation.banks
                    banks[rank, other // size, other % size].refreshed = now + t.tRFC
                continue
            history = banks[rank, group, bank]
            if name == "ACT":
                self._activate(history, activations[rank], now, group)
                history.row = row
            elif name == "PRE":
                self._close(history, now)
            elif name == "REFB":
                self._refresh(history, now)
                history.refreshed = now + t.tRFCpb
            else:
                assert history.row == row, f"cycle {now}: {name} of row {row} while {history.row} is open"
                kind = name[:2]
                self._keep("tRCD", now, history.activated, t.tRCD)
                for since, other_kind, other_rank, other_group in columns:
                    if other_rank != rank:
                        continue
                    if other_group == group:
                        self._keep("tCCD_L", now, since, t.tCCD_L)
                    else:
                        self._keep("tCCD_S", now, since, t.tCCD_S)
                    if (other_kind, kind) == ("WR", "RD"):
                        wait, timing = (t.tWTR_L, "tWTR_L") if other_group == group else (t.tWTR_S, "tWTR_S")
                        self._keep(timing, now, since + t.tCWL + t.tBL, wait)
                columns = [*columns[-40:], (now, kind, rank, group)]
                begin = now + (t.tCL if kind == "RD" else t.tCWL)
                for since, other_kind, other_rank in bursts:
                    if other_rank != rank:
                        self._keep("tRTRS", begin, since + t.tBL, t.tRTRS)
                    elif other_kind != kind:
                        self._keep("turnaround", begin, since + t.tBL, t.tRTRS if kind == "WR" else 0)
                    else:
                        self._keep("tBL", begin, since, t.tBL)
                bursts = [*bursts[-40:], (begin, kind, rank)]
                if kind == "RD":
                    history.read = now
                else:
                    history.written = now
                if name.endswith("A"):
                    ends = [history.activated + t.tRAS, now + t.tRTP if kind == "RD" else begin + t.tBL + t.tWR]
                    if history.read is not None:
                        ends.append(history.read + t.tRTP)
                    if history.written is not None:
                        ends.append(history.written + t.tCWL + t.tBL + t.tWR)
                    self._close(history, max(ends))

    def _activate(self, history: BankHistory, activations: list[tuple[int, int]], now: int, group: int) -> None:
        """An ACT of a bank; `activations` are the bank group and the cycle of those of its rank."""
        t = self.standard.timing
        assert history.row is None, f"cycle {now}: activated while open"
        self._keep("tRC", now, history.activated, t.tRC)
        self._keep("tRP", now, history.precharged, t.tRP)
        self._keep("tRFC", now, history.refreshed, 0)
        for other, since in activations:
            if other == group:
                self._keep("tRRD_L", now, since, t.tRRD_L)
            else:
                self._keep("tRRD_S", now, since, t.tRRD_S)
        if len(activations) >= 4:
            self._keep("tFAW", now, activations[-4][1], t.tFAW)
        activations.append((group, now))
        del activations[:-8]
        history.activated = now

    def _close(self, history: BankHistory, now: int) -> None:
        t = self.standard.timing
        assert history.row is not None, f"cycle {now}: precharged while closed"
        self._keep("tRAS", now, history.activated, t.tRAS)
        self._keep("tRTP", now, history.read, t.tRTP)
        self._keep("tWR", now, history.written, t.tCWL + t.tBL + t.tWR)
        history.row, history.precharged = None, now

    def _refresh(self, history: BankHistory, now: int) -> None:
        t = self.standard.timing
        assert history.row is None, f"cycle {now}: refreshed while open"
        self._keep("tRP", now, history.precharged, t.tRP)
        self._keep("tRC", now, history.activated, t.tRC)
        self._keep("tRFC", now, history.refreshed, 0)
