"""CpuQuota: the CPU time that a control group grants to its processes, and what they have used of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ragcache.engine.cgroups import CGROUPS, OWN_CGROUPS, cgroups_of

V1_COUNTER = "cpuacct.usage"  # nanoseconds


@dataclass(frozen=True, slots=True)
class CpuQuota:
    """The quota of one control group, in cores, and the file that counts what its processes use, if there is one."""

    cores: float
    counter: Path | None

    def used(self, text: str) -> float:
        """Seconds of CPU time that the group's processes have used so far, by this text of the counter.

        Raises ValueError for a text that does not say it.
        """
        if self.counter is not None and self.counter.name == V1_COUNTER:
            return int(text) * 1e-9
        for line in text.splitlines():
            name, number = line.split()
            if name == "usage_usec":
                return int(number) * 1e-6
        raise ValueError("no line usage_usec")


def cpu_quotas(own_cgroups: Path = OWN_CGROUPS, mounted: Path = CGROUPS) -> list[CpuQuota]:
    """The CPU quotas of the control groups that this process is in. Empty if none has a quota, or outside Linux."""
    quotas = []
    for group in cgroups_of("cpu", own_cgroups, mounted):
        try:
            cores = (_quota_v1 if group.version == 1 else _quota_v2)(group.folder)
        except (OSError, ValueError):
            continue
        if cores > 0:
            # version 1 may count in a hierarchy of its own
            v1 = (group.folder / V1_COUNTER, mounted / "cpuacct" / group.part / V1_COUNTER)
            counters = v1 if group.version == 1 else (group.folder / "cpu.stat",)
            quotas.append(CpuQuota(cores, next(filter(Path.is_file, counters), None)))
    return quotas


def _quota_v2(folder: Path) -> float:
    """Cores by `cpu.max`, "200000 100000". ValueError for "max 100000", which is none."""
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)


def _quota_v1(folder: Path) -> float:
    """Cores by `cpu.cfs_quota_us`; negative if there is no quota."""
    return int((folder / "cpu.cfs_quota_us").read_text()) / int((folder / "cpu.cfs_period_us").read_text())
