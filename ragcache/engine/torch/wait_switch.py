"""WaitSwitch: has OpenMP's threads of this process wait for one another spinning or asleep, while they run."""

from __future__ import annotations

import ctypes
import logging
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from ragcache.engine.cgroups import tasks_left
from ragcache.engine.spare_threads import can_start

OTHER_THREADS = 32  # left to the rest of the process
RETRY_SECONDS = 60.0  # after threads were refused

log = logging.getLogger(__name__)


def _torchs_openmp() -> Any:
    """The OpenMP library that torch computes with. None where that is not libgomp."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))  # is loaded: this finds it
        library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
    except (OSError, AttributeError):
        return None
    return library


class WaitSwitch:
    """Chooses between the two ways in which libgomp's threads wait at the end of an operation.

    libgomp has no call for it, but a rule: its threads spin for milliseconds before they sleep, unless it manages more
    threads than there are CPUs; then they sleep almost at once (its manual, GOMP_SPINCOUNT). So `sleep` starts threads
    that make them more, and are asleep themselves, and `spin` ends them. What the operator sets (GOMP_SPINCOUNT,
    OMP_WAIT_POLICY) bounds both ways. With another OpenMP library than libgomp both calls do nothing. Where the process
    may not have that many threads, libgomp would end it: `sleep` does nothing then, and tries again a minute later.

    One thread at a time may use it. `threads` is the number of threads that compute.
    """

    def __init__(self, threads: int) -> None:
        self._library = _torchs_openmp()
        cpus = 0 if self._library is None else int(self._library.omp_get_num_procs())
        self._idle_threads = max(1, cpus - threads + 1)
        self._begun, self._end = threading.Event(), threading.Event()
        self._holder: threading.Thread | None = None
        self._error: Exception | None = None
        self._refused: float | None = None  # when threads were refused last

    @property
    def spinning(self) -> bool:
        return self._holder is None

    def sleep(self) -> None:
        """Has threads wait asleep."""
        if self._library is None or self._holder is not None:
            return
        if self._refused is not None and monotonic() < self._refused + RETRY_SECONDS:
            return
        refusal = self._lack_of_threads() or self._start_holder()
        if refusal is not None:
            if self._refused is None:  # once is enough
                log.warning(
                    "threads go on spinning for one another beside other processes: to have them sleep takes %d "
                    "threads more, and %s",
                    self._idle_threads,
                    refusal,
                )
            self._refused = monotonic()

    def spin(self) -> None:
        """Has threads wait spinning, as they do by default."""
        if self._holder is not None:
            self._end.set()
            self._holder.join()
            self._holder = None

    def _lack_of_threads(self) -> str | None:
        """The limit that does not leave room for idle threads and others; None if each does."""
        needed = self._idle_threads + OTHER_THREADS
        left = tasks_left()  # asked first: to try would take them from the container's other processes for a moment
        if left < needed:
            return f"the limit of this container (pids.max) leaves {left:.0f}"
        if not can_start(needed):
            return "the system refuses to start them: see ulimit -u, and the memory that is left"
        return None

    def _start_holder(self) -> str | None:
        """Starts the thread whose OpenMP threads are idle. Returns why not, or None."""
        self._begun.clear()
        self._end.clear()
        self._error = None
        holder = threading.Thread(target=self._hold, name="openmp-idle", daemon=True)
        try:
            holder.start()
        except RuntimeError as error:  # the system has no thread left
            return str(error)
        self._begun.wait()  # what computes next may keep Python's lock from the holder
        if self._error is not None:
            holder.join()
            return f"OpenMP did not start them: {self._error!r}"
        self._holder = holder
        return None

    def _hold(self) -> None:
        """Has a pool of threads of its own, of which OpenMP makes one for each thread that opens a parallel region."""
        try:
            # free(NULL): a function of a pointer without effect
            self._library.GOMP_parallel(self._library.free, None, self._idle_threads + 1, 0)
        except Exception as error:
            self._error = error
            return
        finally:
            self._begun.set()
        self._end.wait()
