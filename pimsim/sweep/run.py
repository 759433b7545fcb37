"""Run: a sweep from its points to its results; what an earlier run has simulated is not simulated again."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from pimsim.sweep.design import Sweep
from pimsim.sweep.executor import cores, executor
from pimsim.sweep.folder import Folder
from pimsim.sweep.point import chunks
from pimsim.sweep.results import Results


def run_sweep(
    sweep: Sweep | str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    executed_by: str = "processes",
    progress: bool = False,
) -> Results:
    """Simulate all points of a sweep (or of a YAML file), and keep the results in the folder `out`.

    `workers` is the number of processes, all cores if None; results depend neither on it nor on a kill in between.
    `progress` shows a bar on a terminal. PimsimError if `out` holds another sweep. A script calls this under `if
    __name__ == "__main__":`, as its workers import it.
    """
    sweep = sweep if isinstance(sweep, Sweep) else Sweep.load(sweep)
    workers = cores() if workers is None else workers
    simulate = executor(executed_by, workers)
    folder, identity = Folder(Path(out)), sweep.identity()
    with folder.claimed(identity):
        if not folder.results.exists():
            work = chunks(sweep)
            ended = folder.ended(len(work))
            left = [chunk for chunk in work if chunk.number not in ended]
            total = sum(len(chunk.points) for chunk in work)
            done = total - sum(len(chunk.points) for chunk in left)
            shown = None if progress else True  # None: where there is a terminal
            with (
                tqdm(total=total, initial=done, unit="point", disable=shown, leave=False, dynamic_ncols=True) as bar,
                closing(simulate(left, max(1, min(workers, len(left))))) as chunks_done,
            ):
                for number, rows in chunks_done:
                    folder.keep(number, rows)
                    bar.update(len(rows))
            folder.finish(len(work), sweep.names, identity)
        folder.tidy()
    return Results.open(out)
