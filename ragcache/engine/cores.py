"""Cores: how many this process may use, and how much of them other processes take."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set
from pathlib import Path

from ragcache.engine.cgroups import CGROUPS, OWN_CGROUPS
from ragcache.engine.quotas import CpuQuota, cpu_quotas

OWN_THREADS = Path("/proc/self/task")
PROC_STAT = Path("/proc/stat")
# fields of a line of /proc/stat that count time in which a core ran something, or the host ran another guest on it
_USED = (1, 2, 3, 6, 7, 8)  # user, nice, system, irq, softirq, steal
# threads that may be asked for: more than computers with one address space have cores, and few enough to be started
# anywhere. With some ten thousand, the library whose threads they are ends the process, or none of them gets anywhere
MOST_THREADS = 1024
LONGEST_COUNTER = 1 << 20  # bytes: the lines of more than 4,000 CPUs

log = logging.getLogger(__name__)


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
    """How many of `cores` others than this process take, as a mean over `window` seconds or more.

    `counter` is the file in which the system counts what everything uses of them. OSError, now or later, where it
    cannot be read or does not say that.
    """

    def __init__(
        self,
        counter: Path,
        cores: float,
        window: float,
        now: Callable[[], float] = time.monotonic,
        own_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        self.cores = cores
        self.window = window
        self._counter = counter
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
        with self._counter.open("rb", buffering=0) as file:
            # just before the one call that reads: it gives up Python's lock, and this process may use much CPU time
            # until the thread has it again
            now, own = self._now(), self._own_seconds()
            text = file.read(LONGEST_COUNTER)
        try:
            return now, self._used(text.decode(errors="replace")), own
        except (ValueError, LookupError) as error:
            raise OSError(f"{self._counter} does not say what was used of the cores: {error}") from error

    @abstractmethod
    def _used(self, text: str) -> float:
        """Seconds used of the cores by everything so far. ValueError or LookupError if this text does not say it."""


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
        cpus = allowed_cpus() if cpus is None else cpus
        names, shown = {f"cpu{cpu}" for cpu in cpus}, _lines(stat.read_text(errors="replace")).keys() - {"cpu"}
        # all together, their ticks are rounded down once. What shows a container its own CPUs numbers them anew (lxcfs)
        whole = shown <= names or not names <= shown
        self._names = {"cpu"} if whole else names
        window = 10 * _tick() * (1.0 if whole else math.sqrt(len(names)))
        super().__init__(stat, len(shown or names) if whole else len(names), window, now, own_seconds)

    def _used(self, text: str) -> float:
        lines = _lines(text)
        online = self._names & lines.keys()
        if not online:
            raise ValueError(f"no line {min(self._names)}")
        return sum(int(lines[name][field]) for name in online for field in _USED) * _tick()


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
        if quota.counter is None:
            raise FileNotFoundError("the system does not count what a control group uses")
        self._quota = quota
        super().__init__(quota.counter, quota.cores, 10 * _tick(), now, own_seconds)

    def _used(self, text: str) -> float:
        return self._quota.used(text)


def other_uses() -> list[OtherUse]:
    """What others take of each thing that bounds this process: its CPUs, and quotas that are less than these.

    What the system does not count is left out, and the log says so.
    """
    cpus = len(allowed_cpus())
    quotas = [functools.partial(UseOfQuota, quota) for quota in cpu_quotas() if quota.cores < cpus]
    openers: list[Callable[[], OtherUse]] = [UseOfCpus, *quotas]
    uses: list[OtherUse] = []
    for open_use in openers:
        try:
            uses.append(open_use())
        except OSError as error:
            log.info("what other processes take is not watched everywhere: %s", error)
    return uses


def _lines(text: str) -> Mapping[str, list[str]]:
    """The fields of the lines of /proc/stat for all CPUs together, "cpu", and for each, "cpu0" and so on."""
    lines = (line.split() for line in text.splitlines() if line.startswith("cpu"))
    return {fields[0]: fields for fields in lines}


def _tick() -> float:
    """Seconds of the kernel's smallest unit of CPU time."""
    return 1 / os.sysconf("SC_CLK_TCK")
