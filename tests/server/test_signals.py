"""A second SIGTERM or SIGINT: in processes of their own, which begin in a tenth of a second, for they end by it."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.server.conftest import until

HEAD = """
import logging, os, signal, sys, time
logging.basicConfig()
from server.signals import on_stop_signals
stops = []
now = [0.0]
on_stop_signals(lambda: stops.append(1), clock=lambda: now[0])
def hear(number, later=0.0):
    now[0] += later
    os.kill(os.getpid(), number)
"""


def run(code: str, *, read: bool = True) -> tuple[int, str]:
    process = subprocess.Popen([sys.executable, "-c", HEAD + code], stdout=-1, stderr=-1, text=True)
    with process:
        try:
            if not read:  # of its log, nothing is read while it runs
                return process.wait(30), ""
            return process.wait(30), process.communicate()[1]
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_is_passed_on_twice_is_one(number: signal.Signals) -> None:
    """As `timeout` does with SIGTERM, and what forwards Ctrl-C, which the terminal has sent already."""
    code = f"hear({int(number)}); hear({int(number)}, 0.01); hear({int(number)}, 0.1); assert stops == [1]"
    assert run(f"{code}; hear({int(number)}, 1.0)")[0] == 128 + number
    assert run(f"{code}; sys.exit(7)") == (7, "")


def test_another_signal_at_once_is_a_second_one() -> None:
    status, log = run(f"hear({int(signal.SIGTERM)}); hear({int(signal.SIGINT)}); time.sleep(60)")
    assert status == 128 + signal.SIGINT
    assert "a second signal (SIGINT): the server ends at once" in log


@pytest.mark.parametrize(
    "waits",
    [
        "time.sleep(60)",  # the log's pipe is full, and this thread does something else
        "logging.warning('x' * 100_000)",  # it waits for the log itself, with the log's lock
    ],
)
def test_the_end_does_not_wait_for_a_log_that_nobody_reads(waits: str) -> None:
    code = f"""
os.set_blocking(2, False)
try:
    while os.write(2, b"x" * 4096): pass
except BlockingIOError:
    os.set_blocking(2, True)
import threading
main = os.getpid()
def later():
    for second in (0.2, 1.0):
        time.sleep(0.2)
        hear({int(signal.SIGTERM)}, second)
threading.Thread(target=later, daemon=True).start()
{waits}
time.sleep(60)
"""
    assert run(code, read=False)[0] == 128 + signal.SIGTERM


def test_children_die_with_it_also_where_one_cannot_be_killed() -> None:
    code = f"""
import multiprocessing, time
children = [multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)) for _ in range(2)]
for child in children: child.start()
print(*(child.pid for child in children), flush=True)
def fail(): raise OSError("gone")
children[0].kill = fail
multiprocessing.active_children = lambda: children
hear({int(signal.SIGTERM)}); hear({int(signal.SIGTERM)}, 1.0)
"""
    process = subprocess.Popen([sys.executable, "-c", HEAD + code], stdout=-1, text=True)
    with process:
        assert process.stdout is not None
        first, second = map(int, process.stdout.readline().split())
        assert process.wait(30) == 128 + signal.SIGTERM
    assert lives(first)
    until(lambda: not lives(second))
    os.kill(first, signal.SIGKILL)


def test_the_first_ends_a_server_that_reloads() -> None:
    code = """
import asyncio, os, signal, time
from fastapi import FastAPI
from ragcache.service.aside import aside
from server.run import HttpServer, bind, run
from server.signals import Hangups
hangups = Hangups()
app = FastAPI()
app.state.draining = False
def reopened():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
async def reload(): await aside(reopened, print)
async def finish(): await asyncio.sleep(0)
os.kill(os.getpid(), signal.SIGHUP)
run(HttpServer(app, bind("127.0.0.1", 0), grace_seconds=5), finish=finish, reload=reload, hangups=hangups)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
