"""Command log: every command that the controllers sent, in order of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pimsim.dram.trace import Trace
from pimsim.errors import PimsimError
from pimsim.standard import Standard

# by the kernel's codes; A at the end: the bank closes by itself as soon as it may
NAMES = ("RD", "WR", "ACT", "PRE", "RDA", "WRA", "PREA", "REF", "REFB")
OF_A_RANK = ("PREA", "REF")
HEADER = ("cycle", "command", "channel", "rank", "bg", "bank", "row", "col")


@dataclass(frozen=True, slots=True, eq=False)
class CommandLog:
    """Arrays of one length; numbers that a command does not have are -1."""

    cycle: NDArray[np.int64]
    command: NDArray[np.str_]
    channel: NDArray[np.int64]
    rank: NDArray[np.int64]
    bank_group: NDArray[np.int64]
    bank: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cycle)

    @classmethod
    def of(
        cls,
        logs: Sequence[tuple[int, NDArray[np.int64], NDArray[np.int64]]],
        trace: Trace,
        standard: Standard,
    ) -> CommandLog:
        """The log of a trace, from the kernel's: each with its pseudo channel, its rows (cycle, command, bank,
        request), and the numbers of its requests in the trace.

        Commands of one cycle stand in the order of the pseudo channels.
        """
        organisation = standard.organisation
        rows = np.concatenate([log for _, log, _ in logs])
        channel = np.concatenate([np.full(len(log), number) for number, log, _ in logs])
        request = np.concatenate([np.where(log[:, 3] < 0, -1, mine[log[:, 3]]) for _, log, mine in logs])
        name = np.array(NAMES)[rows[:, 1]]
        flat = rows[:, 2]
        of_rank = np.isin(name, OF_A_RANK)
        with_row = (request >= 0) & (name != "PRE")
        log_by_channel = cls(
            cycle=rows[:, 0],
            command=name,
            channel=channel,
            rank=flat // organisation.banks_per_rank,
            bank_group=np.where(of_rank, -1, flat // organisation.banks % organisation.bank_groups),
            bank=np.where(of_rank, -1, flat % organisation.banks),
            row=np.where(with_row, trace.row[request], -1),
            column=np.where(with_row & (name != "ACT"), trace.column[request], -1),
        )
        order = np.argsort(log_by_channel.cycle, kind="stable")
        return cls(*(getattr(log_by_channel, part)[order] for part in cls.__slots__))

    def write(self, path: str | Path) -> None:
        """Write a CSV file with the header `HEADER`; what a command does not have is left empty. PimsimError if it
        cannot be written.
        """
        parts = [getattr(self, part).astype(str) for part in self.__slots__]
        lines = [",".join(HEADER), *(",".join(row).replace("-1", "") for row in zip(*parts, strict=True))]
        try:
            Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
        except OSError as error:
            raise PimsimError(f"cannot write the commands to {path}: {error.strerror or error}") from error
