"""WaitSwitch: has OpenMP's threads of this process wait for one another spinning or asleep, while they run."""

from __future__ import annotations

import ctypes
import logging
import threading
from pathlib import Path
from typing import Any

import torch

from ragcache.engine.cgroups import tasks_left

OTHER_THREADS = 32  # left to the rest of the process

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
    OMP_WAIT_POLICY) bounds both ways. With another OpenMP library than libgomp both calls do nothing, and `sleep` does
    nothing where a container may not have that many threads: libgomp would end the process.

    One thread at a time may use it. `threads` is the number of threads that compute.
    """

    def __init__(self, threads: int) -> None:
        self._library = _torchs_openmp()
        cpus = 0 if self._library is None else int(self._library.omp_get_num_procs())
        self._idle_threads = max(1, cpus - threads + 1)
        self._begun, self._end = threading.Event(), threading.Event()
        self._holder: threading.Thread | None = None
        self._refused = False

    @property
    def spinning(self) -> bool:
        return self._holder is None

    def sleep(self) -> None:
        """Has threads wait asleep."""
        if self._library is not None and self._holder is None and self._may_have_threads():
            self._begun.clear()
            self._end.clear()
            holder = threading.Thread(target=self._hold, name="openmp-idle", daemon=True)
            try:
                holder.start()
            except RuntimeError as error:  # the system has no thread left
                log.warning("threads go on spinning for one another: %s", error)
            else:
                self._holder = holder
                self._begun.wait()  # what computes next may keep Python's lock from the holder

    def spin(self) -> None:
        """Has threads wait spinning, as they do by default."""
        if self._holder is not None:
            self._end.set()
            self._holder.join()
            self._holder = None

    def _may_have_threads(self) -> bool:
        """Whether the limits of this process's control groups leave room; the log says once if not."""
        left = tasks_left()
        if left >= self._idle_threads + OTHER_THREADS:
            return True
        if not self._refused:
            self._refused = True
            log.warning(
                "threads go on spinning for one another beside other processes: to have them sleep takes %d threads "
                "more, and the limit of this container (pids.max) leaves %d",
                self._idle_threads,
                left,
            )
        return False

    def _hold(self) -> None:
        """Has a pool of threads of its own, of which OpenMP makes one for each thread that opens a parallel region."""
        nothing = ctypes.cast(self._library.free, ctypes.c_void_p)  # free(NULL): a function of a pointer without effect
        self._library.GOMP_parallel(nothing, None, self._idle_threads + 1, 0)
        self._begun.set()
        self._end.wait()
