"""Cgroup: a control group that this process is in, as its files show it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A folder with the files of one group, or one that is not there: `part` of the hierarchy mounted at `root`."""

    version: int  # 1 or 2
    root: Path
    part: PurePosixPath

    @property
    def folder(self) -> Path:
        """Where the group's files lie, if it is seen from here."""
        return self.root / self.part


def cgroups_of(controller: str, own_cgroups: Path = OWN_CGROUPS, mounted: Path = CGROUPS) -> Iterator[Cgroup]:
    """The groups that may bound what a controller counts of this process, the closest first. None outside Linux."""
    try:
        lines = own_cgroups.read_text().splitlines()
    except OSError:  # not Linux, or hidden
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            version, roots = 2, (mounted, mounted / "unified")
        elif controller in controllers.split(","):
            version, roots = 1, (mounted / controllers, mounted / controller)
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        for root in dict.fromkeys(root.resolve() for root in roots):  # version 1 has links to its folders
            for part in (inside, *inside.parents):  # a container may not see its own path, but it sees the root of it
                yield Cgroup(version, root, part)


def tasks_left(own_cgroups: Path = OWN_CGROUPS, mounted: Path = CGROUPS) -> float:
    """How many more threads the control groups let this process and its neighbours in them start; inf if any number."""
    left = math.inf
    for group in cgroups_of("pids", own_cgroups, mounted):
        try:
            most, there = ((group.folder / name).read_text() for name in ("pids.max", "pids.current"))
            left = min(left, int(most) - int(there))
        except (OSError, ValueError):  # "max" is none
            continue
    return left
