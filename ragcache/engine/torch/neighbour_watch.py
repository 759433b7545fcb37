"""NeighbourWatch: watches what other processes take of the cores while this one computes, and switches how to wait."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from ragcache.engine.cores import other_uses
from ragcache.engine.torch.wait_policy import WaitPolicy
from ragcache.engine.torch.wait_switch import WaitSwitch

PAUSED_WINDOW = 1.0  # seconds between looks while nothing is computed

log = logging.getLogger(__name__)


class NeighbourWatch:
    """A thread that applies a WaitPolicy to torch's threads.

    It looks at what others take beside the thread that computes, and not only between its steps: a step that began on a
    quiet machine may be held up for a minute by a neighbour. `resume` looks as well, on the thread that computes:
    kernels may keep Python's lock for a whole step, as vLLM's do. Whichever thread looks, two looks are a window apart:
    over less, what others take is not known. While nothing is computed they are a second apart, so that the next step
    begins with what is so then, and not with the mean of a long pause.

    `threads` is the number of threads that compute: others may take what is left over of the cores, and of the quota of
    a container. Where the system does not say what others take, nothing is watched, and threads wait as they do by
    default. As a context manager it computes from beginning to end.
    """

    def __init__(self, threads: int) -> None:
        self._policy = WaitPolicy()
        self._switch = WaitSwitch(threads)
        self._threads = threads
        self._computing = threading.Event()
        self._closed = threading.Event()
        self._looking = threading.Lock()
        self._uses = other_uses() if threads > 1 else []
        self._window = max((use.window for use in self._uses), default=0.0)
        self._looked = time.monotonic()
        self._thread: threading.Thread | None = None
        if self._uses:
            self._thread = threading.Thread(target=self._run, name="neighbour-watch", daemon=True)
            self._thread.start()

    @property
    def spinning(self) -> bool:
        """Whether threads wait for one another spinning."""
        return self._switch.spinning

    def resume(self) -> None:
        """This process computes from now on."""
        if not self._computing.is_set():
            self._look()
        self._computing.set()

    def pause(self) -> None:
        """This process does not compute from now on."""
        self._computing.clear()

    def close(self) -> None:
        """Ends the watch; threads wait as they do by default."""
        self._closed.set()
        self._computing.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> NeighbourWatch:
        self.resume()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._computing.wait(self._until_look(max(PAUSED_WINDOW, self._window)))
            self._closed.wait(self._until_look(self._window))
            self._look()
        with self._looking:
            self._switch.spin()

    def _until_look(self, window: float) -> float:
        """Seconds until the last look is a window ago."""
        return max(0.0, self._looked + window - time.monotonic())

    def _look(self) -> None:
        """Applies the policy to what others took since the last look, if that is a window ago."""
        with self._looking:
            if self._closed.is_set() or not self._uses or self._until_look(self._window) > 0:
                return
            seconds, most = 0.0, 0.0
            for use in list(self._uses):
                try:
                    seconds, others = use.since_last()
                except OSError as error:
                    log.warning("what other processes take is watched no more: %s", error)
                    self._uses.remove(use)
                else:
                    most = max(most, others - max(0.0, use.cores - self._threads))
            self._looked = time.monotonic()
            if self._uses and not self._policy.observe(seconds, most):
                self._switch.sleep()
            else:
                self._switch.spin()
            if not self._uses:
                self._closed.set()
