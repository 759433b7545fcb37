"""Long commands on a terminal, in a pipe and interrupted: progress with time left, one line, and no half file."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.props.live"]

COMMAND = [sys.executable, "-m", "ragcache"]
PATIENCE = 30
PROGRESS = re.compile(rb"\d+%\|[^\r\n]*\[\d+:\d+<[\d:]+, ")  # with time left


class OnTerminal:
    """A command whose stderr is a terminal. `shown` is what stands there so far."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self._terminal, its_end = pty.openpty()
        termios.tcsetwinsize(its_end, (24, 100))  # without columns a bar shows nothing
        environment = os.environ | {"RAGCACHE_HOME": str(folder / "home")}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=its_end, cwd=folder, env=environment
        )
        os.close(its_end)
        self.shown = b""

    def read(self) -> bool:
        """Takes in what was written within a moment; False once the command has closed the terminal."""
        if select.select([self._terminal], [], [], 0.05)[0]:
            try:
                self.shown += os.read(self._terminal, 65536)
            except OSError:  # the command has closed its end
                return False
        return True

    def wait_for_progress(self) -> None:
        """Waits until the bar was drawn twice: tqdm does not wipe a bar whose first drawing is interrupted."""
        deadline = time.monotonic() + PATIENCE
        while len(PROGRESS.findall(self.shown)) < 2:
            assert self.read(), self.shown
            assert time.monotonic() < deadline, self.shown

    def end(self, number: signal.Signals) -> tuple[int, float]:
        """Sends the signal; exit status and seconds until then."""
        begin = time.monotonic()
        self.process.send_signal(number)
        while self.process.poll() is None:
            self.read()
        seconds = time.monotonic() - begin
        while self.read() and time.monotonic() < begin + PATIENCE:
            pass
        return self.process.returncode, seconds

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self._terminal)

    @property
    def left_standing(self) -> list[str]:
        """The lines that are read in the end: a bar that was wiped is none."""
        lines = self.shown.decode().split("\n")
        return [text for line in lines if (text := line.rstrip("\r").rpartition("\r")[2].strip())]


@pytest.fixture
def on_terminal(tmp_path: Path) -> Iterator[Callable[..., OnTerminal]]:
    started: list[OnTerminal] = []

    def start(*arguments: object) -> OnTerminal:
        started.append(OnTerminal(list(map(str, arguments)), tmp_path))
        return started[-1]

    yield start
    for command in started:
        command.close()


def simulation(folder: Path, requests: int, capacities: int) -> list[str]:
    """The arguments of a simulation over this number of requests, at this number of capacities."""
    trace = folder / "trace.jsonl"
    rows = ({"path": [number * number % 997, number % 89], "sizes": [700, 300]} for number in range(requests))
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = ",".join(str(50_000 + number) for number in range(capacities))
    options = ["--trace", str(trace), "--format", "paths", "--policy", "all", "--capacity", sizes]
    return ["simulate", *options, "--curve", str(folder / "curve.png")]


SIMULATED = pytest.mark.full(proof="test_a_long_simulation_says_how_long_it_takes_yet_and_ends_at_once")
PROFILED = pytest.mark.full(proof="test_a_profile_that_is_interrupted_leaves_no_file")


@pytest.mark.parametrize(
    ("number", "last_words"), [(signal.SIGINT, ["interrupted"]), pytest.param(signal.SIGTERM, [], marks=SIMULATED)]
)
def test_a_long_simulation_says_how_long_it_takes_yet_and_ends_at_once(tmp_path, on_terminal, number, last_words):
    running = on_terminal(*simulation(tmp_path, 20_000, 200))
    running.wait_for_progress()
    status, seconds = running.end(number)
    assert status == 128 + number
    assert seconds < 10  # a fraction of one, but on a machine that is busy with other things
    assert running.left_standing == last_words
    assert [path.name for path in tmp_path.iterdir()] == ["trace.jsonl"]


def test_a_simulation_that_is_read_by_a_program_shows_no_bar(tmp_path):
    arguments = simulation(tmp_path, 5_000, 2)
    begin = time.monotonic()
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE * 2, check=True)
    assert time.monotonic() - begin > 2  # longer than the bar's delay
    assert done.stderr == f"curves in {tmp_path / 'curve.png'}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "trace.jsonl"]


def test_a_curve_that_is_interrupted_while_it_is_drawn_leaves_the_old_one(tmp_path):
    (tmp_path / "curve.png").write_bytes(b"the old one")
    code = (
        "import os, signal, sys; from ragcache.cli import main as cli; from ragcache.simulate import curve\n"
        "class Figure(curve.Figure):\n"
        "    def savefig(self, file, **options):\n"
        "        file.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGINT)\n"
        "curve.Figure = Figure\n"
        f"sys.exit(cli.main({simulation(tmp_path, 10, 1)}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert (tmp_path / "curve.png").read_bytes() == b"the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "trace.jsonl"]


@pytest.mark.parametrize(
    ("number", "last_words"), [(signal.SIGINT, ["interrupted"]), pytest.param(signal.SIGTERM, [], marks=PROFILED)]
)
@pytest.mark.parametrize("out", [["--out", "profile.json"], pytest.param([], marks=PROFILED)])
def test_a_profile_that_is_interrupted_leaves_no_file(tmp_path, tiny_folder, on_terminal, out, number, last_words):
    running = on_terminal("profile", "--model", tiny_folder, "--runs", "9999", "--threads", "1", *out)
    running.wait_for_progress()
    status, seconds = running.end(number)
    assert status == 128 + number
    assert seconds < 15  # a fraction of one, but on a machine that is busy with other things
    assert running.left_standing[0].startswith("measuring 20 points 9999 times: about ")
    assert running.left_standing[1:] == last_words
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
