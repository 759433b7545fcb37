"""Folder: where a sweep keeps its manifest, its parts and its results, so that one that was stopped can go on.

manifest.json     the sweep, and all else that its results depend on
parts/00007.parquet   rows of one chunk; whole, or not there
results.parquet   all rows, once all parts are there; then the parts go
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pimsim.errors import PimsimError
from pimsim.sweep import table
from pimsim.sweep.table import Row

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of one sweep. Only a process that has `claimed` it writes there."""

    path: Path

    @property
    def manifest(self) -> Path:
        """The file that says which sweep this is."""
        return self.path / "manifest.json"

    @property
    def parts(self) -> Path:
        """The folder of the parts."""
        return self.path / "parts"

    @property
    def results(self) -> Path:
        """The file of all rows."""
        return self.path / "results.parquet"

    def part(self, chunk: int) -> Path:
        """The file of a chunk's rows."""
        return self.parts / f"{chunk:05}.parquet"

    @contextmanager
    def claimed(self, identity: Mapping[str, Any]) -> Iterator[None]:
        """Keep other processes from writing here meanwhile.

        PimsimError if one is writing, or if results of another sweep are here.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            others = {file.name for file in self.path.iterdir()} - {".lock", f"{self.manifest.name}.partial"}
            if others and not self.manifest.exists():
                raise PimsimError(f"{self.path} holds other files and no sweep: give an empty folder or a new one")
            with (self.path / ".lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise PimsimError(
                        f"{self.path}: another sweep writes there: wait, or take another folder"
                    ) from error
                self._agree(identity)
                for left in (*self.parts.glob("*.partial"), *self.path.glob("*.partial")):
                    left.unlink()  # of a sweep that was killed while it wrote
                self.parts.mkdir(exist_ok=True)
                yield
        except OSError as error:
            raise PimsimError(f"cannot write to {self.path}: {error.strerror or error}") from error

    def ended(self, chunks: int) -> set[int]:
        """Numbers of the first `count` chunks whose parts can be read; a damaged part is removed."""
        numbers = set()
        for number in range(chunks):
            if self.part(number).exists():
                try:
                    table.read_table(self.part(number))
                    numbers.add(number)
                except (OSError, pa.ArrowException):
                    self.part(number).unlink()
        return numbers

    def keep(self, chunk: int, rows: Sequence[Row]) -> None:
        """Write the part of a chunk."""
        table.write(rows, self.part(chunk))

    def finish(self, chunks: int, names: Sequence[str], identity: Mapping[str, Any]) -> None:
        """Make one file of all parts; equal rows give equal files."""
        rows = table.merged((table.read(self.part(number)) for number in range(chunks)), names)
        table.write(rows, self.results, {"pimsim.sweep": json.dumps(identity)})

    def tidy(self) -> None:
        """Remove the parts of a sweep whose results are there."""
        shutil.rmtree(self.parts)

    def identity(self) -> dict[str, Any]:
        """The sweep that the manifest describes. PimsimError if there is none that can be read."""
        try:
            kept: dict[str, Any] = json.loads(self.manifest.read_text(encoding="utf-8"))["sweep"]
        except FileNotFoundError as error:
            raise PimsimError(f"{self.path} holds no sweep: there is no {self.manifest.name}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PimsimError(f"{self.manifest} cannot be read ({error}): remove the folder and sweep again") from error
        return kept

    def _agree(self, identity: Mapping[str, Any]) -> None:
        # as JSON has it: tuples and lists are the same there
        wanted = json.loads(json.dumps(identity))
        if not self.manifest.exists():
            text = json.dumps({"format": FORMAT, "sweep": wanted}, indent=1)
            table.whole(self.manifest, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))
            return
        kept = self.identity()
        others = [name for name in {**kept, **wanted} if kept.get(name) != wanted.get(name)]
        if others:
            raise PimsimError(
                f"{self.path} holds another sweep's results; what differs: {', '.join(others)}. Take another --out, or"
                " remove that folder"
            )
