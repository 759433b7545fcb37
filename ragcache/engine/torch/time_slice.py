"""Time slice: how long the kernel lets a thread run before another's turn, and so how soon it runs when it is woken."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

# sched_setattr, sched_getattr; glibc has functions for them from 2.41 on
_SYSCALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")  # sched_attr: size, policy, flags, nice, priority, runtime, …
_RUNTIME = 5
_SHARES = {0, 3}  # the policies by which threads get a share: SCHED_OTHER, SCHED_BATCH
SHORTEST = 100_000  # nanoseconds: the least that the kernel takes


def shorten_time_slice(thread: int = 0) -> bool:
    """Asks for the shortest time slice, for a thread by its native id or the calling one and those that it will start.

    From Linux 6.12 on a thread with a short slice is run sooner when it is woken, for less time on end; its share of
    the core stays as it is. Threads that wait for one another asleep need just that beside busy processes. Returns
    whether the kernel took it in; older ones do, and do nothing.
    """
    numbers = _SYSCALLS.get(platform.machine()) if os.name == "posix" else None
    if numbers is None:
        return False
    set_attributes, get_attributes = numbers
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    if syscall(get_attributes, thread, buffer, _ATTRIBUTES.size, 0):
        return False
    attributes = list(_ATTRIBUTES.unpack(buffer.raw))
    if attributes[1] not in _SHARES:
        return False
    attributes[_RUNTIME] = SHORTEST
    buffer.raw = _ATTRIBUTES.pack(*attributes)
    return bool(syscall(set_attributes, thread, buffer, 0) == 0)
