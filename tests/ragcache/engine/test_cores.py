"""Cores that a process may use, by its CPUs and its control groups, and what other processes take of them."""

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ragcache.engine import cores
from ragcache.engine.cgroups import tasks_left
from ragcache.engine.cores import OtherUse, UseOfCpus, UseOfQuota, available_cores, granted_cores, other_uses
from ragcache.engine.quotas import CpuQuota, cpu_quotas


def mount(tmp_path: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """The two arguments for a process whose /proc/self/cgroup is `own`, where these files are mounted."""
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        file = tmp_path / "mounted" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "own", tmp_path / "mounted"


def cgroups(tmp_path: Path, own: str, files: dict[str, str]) -> float | None:
    """What is granted to such a process."""
    return granted_cores(*mount(tmp_path, own, files))


@pytest.mark.parametrize(
    ("own", "files", "granted"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 50000", "cpu.max": "400000 100000"}, 2.0),
        ("0::/not/seen/from/inside\n", {"cpu.max": "50000 100000"}, 0.5),
        ("4:memory:/x\n1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, 3.0),
        ("2:cpuset:/x\n", {"cpuset/x/cpu.max": "100000 100000"}, None),
        ("0::/\n", {"unified/cpu.max": "100000 100000"}, 1.0),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
    ],
)
def test_the_smallest_quota_of_any_group_counts(tmp_path, own, files, granted):
    assert cgroups(tmp_path, own, files) == granted


V1 = {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("own", "files", "counter", "counts"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, "cpu.stat", "usage_usec {us}\nuser_usec 5\nnr_throttled 3\n"),
        ("0::/a/b\n", {"a/b/cpu.max": "max 1", "a/cpu.max": "200000 100000"}, "a/cpu.stat", "usage_usec {us}\n"),
        ("0::/unseen\n", {"unified/cpu.max": "200000 100000"}, "unified/cpu.stat", "x 1\nusage_usec {us}"),
        ("1:cpu,cpuacct:/\n", {f"cpu,cpuacct/{n}": t for n, t in V1.items()}, "cpu,cpuacct/cpuacct.usage", "{us}000\n"),
        ("1:cpu:/x\n", {f"cpu/x/{n}": t for n, t in V1.items()}, "cpuacct/x/cpuacct.usage", "{us}000\n"),
    ],
)
def test_others_take_what_the_group_used_without_this_process(tmp_path, own, files, counter, counts):
    now, own_seconds = [10.0], [1.0]
    (quota,) = cpu_quotas(*mount(tmp_path, own, {**files, counter: counts.format(us=7_000_000)}))
    use = UseOfQuota(quota, now=lambda: now[0], own_seconds=lambda: own_seconds[0])
    assert (use.cores, use.window) == (2.0, pytest.approx(0.1))
    now[0], own_seconds[0] = 12.0, 2.5
    (tmp_path / "mounted" / counter).write_text(counts.format(us=10_500_000))
    assert use.since_last() == (2.0, pytest.approx(1.0))


def test_a_group_whose_use_is_not_counted_is_an_os_error(tmp_path):
    (quota,) = cpu_quotas(*mount(tmp_path, "0::/", {"cpu.max": "200000 100000"}))
    with pytest.raises(OSError, match="does not count"):
        UseOfQuota(quota)
    (quota,) = cpu_quotas(*mount(tmp_path, "0::/", {"cpu.stat": "nr_periods 3"}))
    with pytest.raises(OSError, match="usage_usec"):
        UseOfQuota(quota)


def test_only_quotas_below_the_cpus_are_watched_and_those_that_are_counted(tmp_path, monkeypatch):
    counter = tmp_path / "cpu.stat"
    counter.write_text("usage_usec 1")
    cpus = len(cores.allowed_cpus())
    sizes = ((cpus - 0.5, counter), (cpus, counter), (cpus + 1, counter), (0.5, counter), (0.5, None))
    monkeypatch.setattr(cores, "cpu_quotas", lambda: [CpuQuota(*size) for size in sizes])
    assert [use.cores for use in other_uses()] == [cpus, cpus - 0.5, 0.5]


def test_what_is_not_counted_is_left_out_and_the_log_says_so(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    counter, silent = tmp_path / "cpu.stat", tmp_path / "silent"
    counter.write_text("usage_usec 1")
    silent.write_text("nr_periods 3")
    monkeypatch.setattr(cores, "cpu_quotas", lambda: [CpuQuota(0.5, silent), CpuQuota(0.25, counter)])
    cpus = len(cores.allowed_cpus())
    assert [use.cores for use in other_uses()] == [cpus, 0.25]
    assert "silent does not say what was used of the cores: no line usage_usec" in caplog.text
    monkeypatch.setattr(cores, "UseOfCpus", lambda: UseOfCpus(tmp_path / "stat"))
    assert [use.cores for use in other_uses()] == [0.25]
    assert str(tmp_path / "stat") in caplog.text


@pytest.mark.parametrize(
    ("own", "files", "left"),
    [
        ("0::/\n", {"pids.max": "100\n", "pids.current": "40\n"}, 60),
        ("0::/\n", {"pids.max": "max\n", "pids.current": "40\n"}, float("inf")),
        ("0::/a\n", {"a/pids.max": "max", "a/pids.current": "9", "pids.max": "10", "pids.current": "12"}, -2),
        ("8:pids:/x\n0::/\n", {"pids/x/pids.max": "64", "pids/x/pids.current": "9"}, 55),
        ("8:cpu:/x\n", {"pids/x/pids.max": "64", "pids/x/pids.current": "9"}, float("inf")),
    ],
)
def test_threads_left_are_those_of_the_tightest_group(tmp_path, own, files, left):
    assert tasks_left(*mount(tmp_path, own, files)) == left


def test_no_control_groups_grant_nothing(tmp_path):
    assert granted_cores(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(
    ("cpus", "granted", "count"), [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 0.2, 1), (2, 64.0, 2)]
)
def test_cores_are_the_cpus_or_the_quota_rounded_up(monkeypatch, cpus, granted, count):
    monkeypatch.setattr(cores, "allowed_cpus", lambda: set(range(cpus)))
    monkeypatch.setattr(cores, "granted_cores", lambda: granted)
    assert available_cores() == count


def test_others_take_what_the_cpus_ran_without_this_process(tmp_path):
    stat, now, own = tmp_path / "stat", [10.0], [1.0]

    def write(*busy: int) -> None:
        """Ticks of user, nice, system, irq, softirq, steal for CPU 0, and of user for CPU 1; idle and iowait vary."""
        user, nice, system, irq, softirq, steal, second = busy
        lines = [
            f"cpu  {user + second} {nice} {system} 9 99 {irq} {softirq} {steal} {user} 0",
            f"cpu0 {user} {nice} {system} {now[0]:.0f} 77 {irq} {softirq} {steal} {user} 0",
            f"cpu1 {second} 0 0 5 5 0 0 0 0 0",
            "intr 12 99",
        ]
        stat.write_text("\n".join(lines))

    write(0, 0, 0, 0, 0, 0, 0)
    tick = os.sysconf("SC_CLK_TCK")
    use = UseOfCpus(stat, cpus={0}, now=lambda: now[0], own_seconds=lambda: own[0])
    both = UseOfCpus(stat, cpus={0, 1}, now=lambda: now[0], own_seconds=lambda: own[0])
    now[0], own[0] = 12.0, 1.5
    write(tick, tick // 10, tick // 10, tick // 10, tick // 10, tick // 10, tick)
    assert both.window == pytest.approx(0.1)  # 10 ticks; what is rounded down for each CPU needs more of them
    assert use.window == both.window
    assert use.since_last() == (2.0, pytest.approx(0.5))
    assert both.since_last() == (2.0, pytest.approx(1.0))
    assert use.since_last() == (0.0, 0.0)
    now[0], own[0] = 13.0, 2.5  # what the ticks missed of our own time
    assert use.since_last() == (1.0, 0.0)


def test_cpus_of_threads_that_are_bound_count_together():
    before, ended = os.sched_getaffinity(0), threading.Event()

    def run() -> None:
        os.sched_setaffinity(0, {min(before)})
        ended.wait()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert cores.allowed_cpus() == before
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("cpus", [{4, 5}, {1, 4}, {7}])
def test_cpus_that_are_shown_by_other_numbers_count_together(tmp_path, cpus):
    """As by lxcfs: the file shows the CPUs of a container, and numbers them from 0."""
    stat, now, tick = tmp_path / "stat", [0.0], os.sysconf("SC_CLK_TCK")
    lines = "cpu {both} 0 0 0 0 0 0 0 0 0\ncpu0 {each} 0 0 0 0 0 0 0 0 0\ncpu1 {each} 0 0 0 0 0 0 0 0 0\nintr 0\n"
    stat.write_text(lines.format(both=0, each=0))
    use = UseOfCpus(stat, cpus=cpus, now=lambda: now[0], own_seconds=lambda: 0.25 * now[0])
    assert (use.cores, use.window) == (2, pytest.approx(0.1))
    now[0] = 1.0
    stat.write_text(lines.format(both=2 * tick, each=tick))
    assert use.since_last() == (1.0, pytest.approx(1.75))


def test_a_part_of_the_cpus_is_looked_at_for_longer(tmp_path):
    lines = [f"cpu{name} 1 1 1 1 1 1 1 1 0 0" for name in ("", *range(64))]
    (tmp_path / "stat").write_text("\n".join(lines))
    assert UseOfCpus(tmp_path / "stat", cpus=set(range(64))).window == pytest.approx(0.1)
    assert UseOfCpus(tmp_path / "stat", cpus=set(range(16))).window == pytest.approx(0.4)


def test_a_system_that_does_not_count_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="stat"):
        UseOfCpus(tmp_path / "stat")


@pytest.mark.parametrize("text", ["", "\n", "intr 1 2\n", "cpu 1 2\n", "cpu a b c d e f g h\n", "\xff"])
def test_a_file_in_another_form_is_an_os_error(tmp_path, text):
    stat, counter = tmp_path / "stat", tmp_path / "cpu.stat"
    for file in (stat, counter):
        file.write_text(text, encoding="latin-1")
    with pytest.raises(OSError, match="stat"):
        UseOfCpus(stat)
    with pytest.raises(OSError, match="stat"):
        UseOfQuota(CpuQuota(1.0, counter))


class SlowCounter(io.BytesIO):
    """A file that counts what this process uses, and computes with both cores while a thread opens or reads it."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.now = seconds, 0.0

    def open(self, *_: object, **__: object) -> "SlowCounter":
        self.now += self.seconds
        return self

    def read(self, _: int | None = -1) -> bytes:
        used = 2.0 * self.now
        self.now += self.seconds
        return f"{used}".encode()

    def close(self) -> None:
        self.now += self.seconds


class UseOfSlowCounter(OtherUse):
    """A machine on which nothing else runs."""

    def _used(self, text: str) -> float:
        return float(text)


def test_what_this_process_computes_while_a_counter_is_read_is_not_a_neighbours():
    """A thread gives up Python's lock where it opens and reads, and may have it again after a whole step."""
    counter: Any = SlowCounter(0.2)
    use = UseOfSlowCounter(counter, 2, 0.1, now=lambda: counter.now, own_seconds=lambda: 2.0 * counter.now)
    for counter.seconds in (0.0, 0.2, 0.0, 0.5, 0.1):
        counter.now += 0.1
        seconds, others = use.since_last()
        assert seconds > 0.09
        assert others == pytest.approx(0.0)


def test_a_busy_process_is_seen_and_this_one_is_not():
    use = UseOfCpus()
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as neighbour:
        try:
            time.sleep(1.0)
            _, others = use.since_last()
        finally:
            neighbour.kill()
    assert others > 0.2  # at least its share beside what else runs here
    begin = time.process_time()
    use.since_last()
    while time.process_time() < begin + 0.5:
        pass
    seconds, others = use.since_last()
    assert others <= len(cores.allowed_cpus()) - 0.5 / seconds + 0.1  # our own half second is not in it
