"""`python -m pimsim` is the command."""

import subprocess
import sys


def test_the_package_runs_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "pimsim", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("pimsim ")
