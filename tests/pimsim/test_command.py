"""The command `pimsim` as a process: its name, any encoding, and readers that go away."""

import os
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "pimsim"]


def test_the_package_runs_as_the_command():
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("pimsim ")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["validate", "--help"]])
def test_a_closed_pipe_ends_it_without_a_word(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*COMMAND, *arguments], stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writing)
    assert done.returncode in (0, 141)  # argparse ends with 0 whatever becomes of a help
    assert done.stderr == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_message_is_one_line_in_any_encoding(tmp_path, encoding):
    name = "gr\u00fc\u00df\x1b[2J\n\u6c34.yaml"
    done = subprocess.run(
        [*COMMAND, "run", str(tmp_path / name)],
        capture_output=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    last = done.stderr.decode(encoding).splitlines()[-1]
    assert last.startswith("pimsim")
    assert "\x1b" not in last
