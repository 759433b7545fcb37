"""Cores: how many this process may use, and how much of them other processes take."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
OWN_THREADS = Path("/proc/self/task")
PROC_STAT = Path("/proc/stat")
# fields of a line of /proc/stat that count time in which a core ran something, or the host ran another guest on it
_USED = (1, 2, 3, 6, 7, 8)  # user, nice, system, irq, softirq, steal


def allowed_cpus() -> Set[int]:
    """Numbers of the CPUs that this process may run on: of all its threads, which may be bound to one each."""
    cpus: set[int] = set()
    for thread in OWN_THREADS.iterdir() if OWN_THREADS.is_dir() else ():
        with contextlib.suppress(OSError):  # it has ended
            cpus |= os.sched_getaffinity(int(thread.name))
    return cpus or set(range(os.cpu_count() or 1))


def available_cores() -> int:
    """Cores this process may use: the CPUs it may run on, or what its control groups grant (rounded up) if less.

    More threads than that would wait for one another: a quota of 2 cores runs 2 at a time, whatever the machine has.
    """
    cpus, granted = len(allowed_cpus()), granted_cores()
    return cpus if granted is None else max(1, min(cpus, math.ceil(granted)))


def granted_cores(own_cgroups: Path = OWN_CGROUPS, mounted: Path = CGROUPS) -> float | None:
    """The smallest CPU quota of the control groups that this process is in, in cores. None if none has a quota."""
    try:
        lines = own_cgroups.read_text().splitlines()
    except OSError:  # not Linux, or hidden
        return None
    quotas = [quota for line in lines for quota in _quotas(line, mounted)]
    return min(quotas, default=None)


def _quotas(line: str, mounted: Path) -> Iterator[float]:
    """Quotas of one hierarchy, which is a line `number:controllers:path` of /proc/self/cgroup, from its path upward."""
    _, controllers, path = line.split(":", 2)
    if not controllers:
        roots, read = (mounted, mounted / "unified"), _quota_v2
    elif "cpu" in controllers.split(","):
        roots, read = (mounted / controllers, mounted / "cpu"), _quota_v1
    else:
        return
    inside = PurePosixPath(path.lstrip("/"))
    for root in roots:
        for folder in (inside, *inside.parents):  # a container may not see its own path, but it sees the root of it
            try:
                quota = read(root / folder)
            except (OSError, ValueError):
                continue
            if quota > 0:
                yield quota


def _quota_v2(folder: Path) -> float:
    """Cores by `cpu.max`, "200000 100000". ValueError for "max 100000", which is none."""
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)


def _quota_v1(folder: Path) -> float:
    """Cores by `cpu.cfs_quota_us`; negative if there is no quota."""
    return int((folder / "cpu.cfs_quota_us").read_text()) / int((folder / "cpu.cfs_period_us").read_text())


class OtherUse:
    """How many of the cores that this process may run on other processes, the kernel and other guests of the host take.

    The kernel tells times in ticks, rounded down for each CPU: over `window` seconds a mean is good to about 0.1 core.
    """

    def __init__(
        self,
        stat: Path = PROC_STAT,
        *,
        cpus: Set[int] | None = None,
        now: Callable[[], float] = time.monotonic,
        own_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        """Raises OSError where the system has no /proc/stat."""
        self._stat = stat
        self._now, self._own_seconds = now, own_seconds
        self._tick = 1 / os.sysconf("SC_CLK_TCK")
        self.cpus = allowed_cpus() if cpus is None else cpus
        ours = {f"cpu{cpu}" for cpu in self.cpus}
        whole = {name for name, _ in self._lines()} <= ours | {"cpu"}
        self._names = {"cpu"} if whole else ours  # their sum is rounded down once
        self.window = 10 * self._tick * (1.0 if whole else math.sqrt(len(ours)))
        self._last = self._read()

    def since_last(self) -> tuple[float, float]:
        """Seconds since the last call, or since this object was created, and the mean cores taken in that time."""
        last, self._last = self._last, self._read()
        (then, used_then, own_then), (now, used, own) = last, self._last
        if now <= then:
            return 0.0, 0.0
        return now - then, max(0.0, ((used - used_then) - (own - own_then)) / (now - then))

    def _read(self) -> tuple[float, float, float]:
        """Now, seconds used of our cores by everything, and by this process."""
        used = sum(int(fields[field]) for name, fields in self._lines() if name in self._names for field in _USED)
        return self._now(), used * self._tick, self._own_seconds()

    def _lines(self) -> Iterator[tuple[str, list[str]]]:
        """The lines of all CPUs together, "cpu", and of each, "cpu0" and so on. They come first in the file."""
        for line in self._stat.read_text().splitlines():
            fields = line.split()
            if not fields[0].startswith("cpu"):
                return
            yield fields[0], fields
