"""The switch really changes how libgomp's threads wait: what they use of the cores after an operation."""

import ctypes
import json
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from ragcache.engine.torch.wait_switch import WaitSwitch


class OpenMP:
    """A library for a machine of 4 CPUs that starts no threads."""

    free = ctypes.CFUNCTYPE(None)(lambda: None)

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls
        self.error: Exception | None = None

    def omp_get_num_procs(self) -> int:
        return 4

    def GOMP_parallel(self, *_: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append("GOMP_parallel")


# Runs operations with a rest after each, in which a thread that spins uses its core and one that sleeps does not. It
# counts CPU time, so other processes do not matter
RESTS = """
import json, os, resource, threading, time
os.sched_setaffinity(0, range(os.cpu_count()))
import torch
torch.set_num_threads(2)
from ragcache.engine.torch.wait_switch import WaitSwitch
vector = torch.ones(1_000_000)

def used_in_rests():
    used = 0.0
    for _ in range(20):
        vector.mul_(1.0)
        begin = time.process_time()
        time.sleep(0.02)
        used += time.process_time() - begin
    return used

switch, threads, rows = WaitSwitch(2), threading.active_count(), []
for way in (switch.spin, switch.sleep, switch.sleep, switch.spin, switch.sleep):
    way()
    time.sleep(0.2)
    rows.append((switch.spinning, used_in_rests(), threading.active_count() - threads))
switch.spin()
left = threading.active_count() - threads
if os.getuid() == 0:
    os.setuid(65534)  # root may have any number
one_more = len(os.listdir("/proc/self/task")) + 1
resource.setrlimit(resource.RLIMIT_NPROC, (one_more, one_more))
switch.sleep()
print(json.dumps({"rows": rows, "left": left, "spins at the limit": switch.spinning}))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="with one CPU, threads never spin")
def test_threads_that_sleep_use_no_core_while_they_wait():
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", RESTS], env=kept, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [spinning for spinning, _, _ in report["rows"]] == [True, False, False, True, False]
    assert [held for _, _, held in report["rows"]] == [0, 1, 1, 0, 1]
    spun = [used for spinning, used, _ in report["rows"] if spinning]
    slept = [used for spinning, used, _ in report["rows"] if not spinning]
    assert min(spun) > 4 * max(slept)
    assert report["left"] == 0
    assert report["spins at the limit"]  # and libgomp did not end the process


def test_without_libgomp_nothing_is_switched(monkeypatch):
    monkeypatch.setattr("ragcache.engine.torch.wait_switch._torchs_openmp", lambda: None)
    switch = WaitSwitch(2)
    switch.sleep()
    assert switch.spinning
    switch.spin()


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time of the switch."""
    now = [0.0]
    monkeypatch.setattr("ragcache.engine.torch.wait_switch.monotonic", lambda: now[0])
    return now


def assert_refuses_for_a_while(now: list[float], caplog, line: str) -> WaitSwitch:
    """A switch that could not have threads sleep, and may try again."""
    switch = WaitSwitch(1)
    for now[0] in (0.0, 1.0, 59.0, 61.0):
        switch.sleep()
        assert switch.spinning
    assert [line in message for message in caplog.messages] == [True]
    now[0] = 125.0
    return switch


def test_a_container_that_lacks_threads_goes_on_spinning_and_is_not_ended(monkeypatch, caplog, now):
    left, asked = [10], []
    monkeypatch.setattr("ragcache.engine.torch.wait_switch._torchs_openmp", lambda: OpenMP(asked))
    monkeypatch.setattr("ragcache.engine.torch.wait_switch.tasks_left", lambda: left[0])
    monkeypatch.setattr("ragcache.engine.torch.wait_switch.can_start", lambda count: asked.append(count) or True)
    switch = assert_refuses_for_a_while(now, caplog, "(pids.max) leaves 10")
    assert not asked
    left[0] = 10_000
    switch.sleep()
    assert not switch.spinning
    assert asked == [4 + 32, "GOMP_parallel"]
    switch.spin()
    assert switch.spinning


def test_a_user_who_may_have_no_more_threads_goes_on_spinning(monkeypatch, caplog, now):
    may = [False]
    monkeypatch.setattr("ragcache.engine.torch.wait_switch._torchs_openmp", lambda: OpenMP([]))
    monkeypatch.setattr("ragcache.engine.torch.wait_switch.can_start", lambda _: may[0])
    switch = assert_refuses_for_a_while(now, caplog, "refuses")
    may[0] = True
    switch.sleep()
    assert not switch.spinning
    switch.spin()


def test_threads_that_cannot_be_had_hold_up_nothing(monkeypatch, caplog, now):
    openmp = OpenMP([])
    openmp.error = MemoryError("no room")
    monkeypatch.setattr("ragcache.engine.torch.wait_switch._torchs_openmp", lambda: openmp)
    switch = assert_refuses_for_a_while(now, caplog, "no room")
    assert not [thread for thread in threading.enumerate() if thread.name == "openmp-idle"]
    openmp.error = None
    switch.sleep()
    assert not switch.spinning
    switch.spin()
    assert switch.spinning
