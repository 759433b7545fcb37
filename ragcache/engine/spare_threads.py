"""SpareThreads: whether the system would start this many threads more."""

from __future__ import annotations

import ctypes

SEMAPHORE = ctypes.c_uint64 * 8  # at least as large as any C library's sem_t


def can_start(count: int) -> bool:
    """Starts `count` threads that sleep, and ends them again. False if the system refuses one. On Linux alone.

    No count of threads would answer this: the limit of a user (`ulimit -u`) counts threads in other containers, too.
    They are not threads of Python: these would take Python's lock, and the calling thread keeps it all the while, so
    that no other one starts threads of this process meanwhile and is refused.
    """
    library, waiting = ctypes.PyDLL(None), SEMAPHORE()
    threads: list[ctypes.c_ulong] = []
    library.sem_init(waiting, 0, 0)
    thread = ctypes.c_ulong()
    while len(threads) < count and library.pthread_create(ctypes.byref(thread), None, library.sem_wait, waiting) == 0:
        threads.append(ctypes.c_ulong(thread.value))
    for _ in threads:
        library.sem_post(waiting)
    for started in threads:
        library.pthread_join(started, None)
    return len(threads) == count
