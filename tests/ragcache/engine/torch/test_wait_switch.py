"""The switch really changes how libgomp's threads wait: what they use of the cores after an operation."""

import json
import os
import subprocess
import sys

import pytest

from ragcache.engine.torch.wait_switch import WaitSwitch

# Runs operations with a rest after each, in which a thread that spins uses its core and one that sleeps does not. It
# counts CPU time, so other processes do not matter
RESTS = """
import json, os, threading, time
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
print(json.dumps({"rows": rows, "left": threading.active_count() - threads}))
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


def test_without_libgomp_nothing_is_switched(monkeypatch):
    monkeypatch.setattr("ragcache.engine.torch.wait_switch._torchs_openmp", lambda: None)
    switch = WaitSwitch(2)
    switch.sleep()
    assert switch.spinning
    switch.spin()


def test_a_container_that_lacks_threads_goes_on_spinning_and_is_not_ended(monkeypatch, caplog):
    left = [10]
    monkeypatch.setattr("ragcache.engine.torch.wait_switch.tasks_left", lambda: left[0])
    switch = WaitSwitch(1)
    for _ in range(3):
        switch.sleep()
        assert switch.spinning
    (line,) = [line for line in caplog.messages if "pids.max" in line]
    assert "leaves 10" in line
    left[0] = 10_000
    switch.sleep()
    assert not switch.spinning or switch._library is None
    switch.spin()
    assert switch.spinning
