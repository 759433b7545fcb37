"""Results: the rows of a sweep that has ended, and questions about them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pimsim.errors import PimsimError, WorkloadError
from pimsim.sweep import table
from pimsim.sweep.design import Sweep
from pimsim.sweep.folder import Folder
from pimsim.sweep.table import ERROR, POINT, Row


@dataclass(frozen=True, eq=False)
class Results:
    """The rows of a sweep, one for each point: its number, its axes' values, the error or None, then the simulator's
    result.
    """

    folder: Folder
    table: pa.Table

    @classmethod
    def open(cls, folder: str | Path) -> Results:
        """The results in a folder. PimsimError if no sweep has ended there."""
        kept = Folder(Path(folder))
        kept.identity()
        if not kept.results.exists():
            raise PimsimError(f"the sweep of {folder} has not ended: sweep again to go on")
        try:
            return cls(kept, table.read_table(kept.results))
        except (OSError, pa.ArrowException) as error:
            raise PimsimError(f"{kept.results} cannot be read ({error}): remove it and sweep again") from error

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def sweep(self) -> Sweep:
        """The sweep whose results these are. PimsimError if a file that it names is gone."""
        identity = self.folder.identity()
        return Sweep.of(
            identity["target"],
            base=identity["base"],
            axes=identity.get("axes"),
            sample=identity["sample"],
            points=identity["points"],
            seed=identity.get("seed", 0),
            where=str(self.folder.manifest),
        )

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes; they come between the point's number and its error."""
        names = self.table.column_names
        return tuple(names[names.index(POINT) + 1 : names.index(ERROR)])

    @cached_property
    def rows(self) -> list[Row]:
        """All rows, in the order of the points."""
        return self.table.to_pylist()

    @cached_property
    def errors(self) -> dict[int, str]:
        """What went wrong at each point that failed, by the point's number."""
        return {row[POINT]: row[ERROR] for row in self.table.select([POINT, ERROR]).to_pylist() if row[ERROR]}

    def name(self, wanted: str) -> str:
        """The column of that name, or the only one whose name ends in it after a dot, or else lacks only its unit.

        So `cost` may stand for `cost_usd`. WorkloadError if no column is meant, or several may be.
        """
        names = self.table.column_names
        if wanted in names:
            return wanted
        last = {name: name.rpartition(".")[2] for name in names}
        for meant in (
            [name for name in names if name.endswith(f".{wanted}")],
            [name for name in names if last[name].startswith(f"{wanted}_")],
        ):
            if len(meant) == 1:
                return meant[0]
            if meant:
                raise WorkloadError(f"{wanted!r} may be any of {', '.join(meant)}: write the whole name")
        near = difflib.get_close_matches(wanted, names, 3)
        hint = f"is {' or '.join(near)} meant?" if near else f"there are {', '.join(self.numeric())}"
        raise WorkloadError(f"{self.folder.path}: no result is called {wanted!r}; {hint}")

    def numeric(self) -> list[str]:
        """Names of the columns that hold numbers."""
        return [
            column.name
            for column in self.table.schema
            if column.name != POINT and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
        ]

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64 [points], NaN where a point failed. WorkloadError if it does not hold numbers."""
        name = self.name(name)
        if name not in self.numeric():
            raise WorkloadError(f"{name!r} is not a number; those are {', '.join(self.numeric())}")
        values = self.table[name].to_pylist()
        return np.array([np.nan if value is None else value for value in values], np.float64)

    def values(self, name: str) -> list[Any]:
        """The values of a column, in the order of the points."""
        return self.table[self.name(name)].to_pylist()
