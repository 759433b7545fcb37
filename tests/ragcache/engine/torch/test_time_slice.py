"""The time slice reaches the kernel, is passed on to threads that are started, and leaves the share alone."""

import ctypes
import os
import platform
import threading

import pytest

from ragcache.engine.torch import time_slice
from ragcache.engine.torch.time_slice import SHORTEST, shorten_time_slice

KERNEL = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
linux = pytest.mark.skipif(platform.machine() not in time_slice._SYSCALLS, reason="the system calls have other numbers")


def attributes() -> tuple[int, int, int]:
    """Policy, nice and runtime of the calling thread, as the kernel has them."""
    buffer = ctypes.create_string_buffer(time_slice._ATTRIBUTES.size)
    number = time_slice._SYSCALLS[platform.machine()][1]
    assert ctypes.CDLL(None).syscall(number, 0, buffer, time_slice._ATTRIBUTES.size, 0) == 0
    fields = time_slice._ATTRIBUTES.unpack(buffer.raw)
    return fields[1], fields[3], fields[time_slice._RUNTIME]


def in_a_thread(work):
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    (result,) = results
    return result


@linux
def test_a_thread_and_those_that_it_starts_have_a_short_slice_and_the_same_share():
    def shortened():
        before = attributes()
        return before, shorten_time_slice(), attributes(), in_a_thread(attributes)

    before, taken, own, started = in_a_thread(shortened)
    assert taken
    assert own[:2] == started[:2] == before[:2]
    if KERNEL >= (6, 12):
        assert own[2] == started[2] == SHORTEST < before[2]
    assert in_a_thread(attributes) == before  # other threads keep theirs


@linux
def test_a_share_that_the_operator_lowered_stays_low():
    def niced():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 7)
        return shorten_time_slice(), attributes()

    taken, (_, nice, _) = in_a_thread(niced)
    assert taken
    assert nice == 7


@linux
def test_a_thread_that_runs_idly_is_left_alone():
    def idle():
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return shorten_time_slice()

    assert in_a_thread(idle) is False


def test_another_thread_is_named_by_its_id_and_one_that_has_ended_is_none():
    ended = in_a_thread(threading.get_native_id)
    assert shorten_time_slice(ended) is False


def test_on_other_machines_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "sparc")
    assert shorten_time_slice() is False
