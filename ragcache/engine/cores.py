"""Cores: how many this process may use, and how much of them other processes take."""

from __future__ import annotations

import contextlib
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Set
from pathlib import Path

from ragcache.engine.cgroups import CGROUPS, OWN_CGROUPS
from ragcache.engine.quotas import CpuQuota, cpu_quotas

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
    return min((quota.cores for quota in cpu_quotas(own_cgroups, mounted)), default=None)


class OtherUse(ABC):
    """How many of `cores` others than this process take, as a mean over `window` seconds or more."""

    def __init__(
        self,
        cores: float,
        window: float,
        now: Callable[[], float] = time.monotonic,
        own_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        self.cores = cores
        self.window = window
        self._now, self._own_seconds = now, own_seconds
        self._last = self._read()

    def since_last(self) -> tuple[float, float]:
        """Seconds since the last call, or since this object was created, and the mean cores taken in that time."""
        last, self._last = self._last, self._read()
        (then, used_then, own_then), (now, used, own) = last, self._last
        if now <= then:
            return 0.0, 0.0
        return now - then, max(0.0, ((used - used_then) - (own - own_then)) / (now - then))

    def _read(self) -> tuple[float, float, float]:
        """Now, seconds used by everything, and by this process."""
        return self._now(), self._used(), self._own_seconds()

    @abstractmethod
    def _used(self) -> float:
        """Seconds used of the cores by everything so far. OSError where the system does not say."""


class UseOfCpus(OtherUse):
    """What other processes, the kernel and other guests of the host take of the CPUs that this process may run on.

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
        cpus = allowed_cpus() if cpus is None else cpus
        ours = {f"cpu{cpu}" for cpu in cpus}
        whole = {name for name, _ in self._lines()} <= ours | {"cpu"}
        self._names = {"cpu"} if whole else ours  # their sum is rounded down once
        self._tick = _tick()
        super().__init__(len(cpus), 10 * self._tick * (1.0 if whole else math.sqrt(len(ours))), now, own_seconds)

    def _used(self) -> float:
        ticks = sum(int(fields[field]) for name, fields in self._lines() if name in self._names for field in _USED)
        return ticks * self._tick

    def _lines(self) -> Iterator[tuple[str, list[str]]]:
        """The lines of all CPUs together, "cpu", and of each, "cpu0" and so on. They come first in the file."""
        for line in self._stat.read_text().splitlines():
            fields = line.split()
            if not fields[0].startswith("cpu"):
                return
            yield fields[0], fields


class UseOfQuota(OtherUse):
    """What other processes of a control group take of its quota: the CPUs may be idle, and yet none is left for us."""

    def __init__(
        self,
        quota: CpuQuota,
        *,
        now: Callable[[], float] = time.monotonic,
        own_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        """Raises OSError where the system does not count what the group uses."""
        self._quota = quota
        super().__init__(quota.cores, 10 * _tick(), now, own_seconds)

    def _used(self) -> float:
        return self._quota.used()


def other_uses() -> list[OtherUse]:
    """What others take of each thing that bounds this process: its CPUs, and quotas that are less than these.

    Raises OSError where the system has no /proc/stat. Quotas whose use it does not count are left out.
    """
    uses: list[OtherUse] = [UseOfCpus()]
    for quota in cpu_quotas():
        if quota.cores < uses[0].cores and quota.counter is not None:
            uses.append(UseOfQuota(quota))
    return uses


def _tick() -> float:
    """Seconds of the kernel's smallest unit of CPU time."""
    return 1 / os.sysconf("SC_CLK_TCK")
