"""Whether the system would start this many threads more."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ragcache.engine.spare_threads import can_start

TASKS = Path("/proc/self/task")
# in a process of its own, which gives up what root may
AT_THE_LIMIT = """
import os, resource
from ragcache.engine.spare_threads import can_start
if os.getuid() == 0:
    os.setuid(65534)
assert can_start(3)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
assert not can_start(1)
assert can_start(0)
"""


def test_threads_that_were_tried_have_ended_again():
    tasks = len(list(TASKS.iterdir()))
    assert can_start(40)
    assert len(list(TASKS.iterdir())) <= tasks
    assert threading.active_count() <= tasks


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit for threads")
def test_the_limit_of_a_user_counts():
    done = subprocess.run([sys.executable, "-c", AT_THE_LIMIT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
