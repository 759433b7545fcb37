"""NeighbourWatch: watches what other processes take of the cores while this one computes, and switches how to wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from ragcache.engine.cores import OtherUse, other_uses
from ragcache.engine.torch.wait_policy import WaitPolicy
from ragcache.engine.torch.wait_switch import WaitSwitch

log = logging.getLogger(__name__)


class NeighbourWatch:
    """A thread that applies a WaitPolicy to torch's threads, from `resume` to `pause`; otherwise it sleeps.

    It does so beside the thread that computes, and not only between its steps: a step that began on a quiet machine may
    be held up for a minute by a neighbour. Before the first step after a pause it looks as well, on the thread that
    computes: kernels may keep Python's lock for a whole step, as vLLM's do. `threads` is the number of threads that
    compute: others may take what is left over of the cores, and of the quota of a container. Where the system does not
    say what others take, nothing is watched, and threads wait as they do by default. As a context manager it watches
    from beginning to end.
    """

    def __init__(self, threads: int) -> None:
        self._policy = WaitPolicy()
        self._switch = WaitSwitch(threads)
        self._threads = threads
        self._computing = threading.Event()
        self._closed = threading.Event()
        self._uses: Sequence[OtherUse] = ()
        self._window = 0.0
        self._looking = threading.Lock()
        self._looked = time.monotonic()
        self._thread: threading.Thread | None = None
        if threads > 1:
            try:
                self._uses = other_uses()
            except OSError as error:
                log.info("other processes are not watched: %s", error)
                return
            self._window = max(use.window for use in self._uses)
            self._thread = threading.Thread(target=self._run, name="neighbour-watch", daemon=True)
            self._thread.start()

    @property
    def spinning(self) -> bool:
        """Whether threads wait for one another spinning."""
        return self._switch.spinning

    def resume(self) -> None:
        """This process computes from now on. What others took since the last look is what it begins with."""
        if time.monotonic() - self._looked >= self._window and not self._computing.is_set():
            self._look()
        self._computing.set()

    def pause(self) -> None:
        """This process does not compute from now on: how its threads wait stays as it is."""
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
            self._computing.wait()
            self._closed.wait(self._window)
            self._look()
        with self._looking:
            self._switch.spin()

    def _look(self) -> None:
        """Applies the policy to what others took since the last look, while there is something to look at."""
        with self._looking:
            if not self._uses or self._closed.is_set():
                return
            seconds, most = 0.0, 0.0
            try:
                for use in self._uses:
                    seconds, others = use.since_last()
                    most = max(most, others - max(0.0, use.cores - self._threads))
            except OSError as error:
                log.warning("other processes are watched no more: %s", error)
                self._uses, most = (), 0.0
                self._closed.set()
            self._looked = time.monotonic()
            if self._uses and not self._policy.observe(seconds, most):
                self._switch.sleep()
            else:
                self._switch.spin()
