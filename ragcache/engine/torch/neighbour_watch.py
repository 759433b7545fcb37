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

    It does so beside the thread that computes, and not between its steps: a step that began on a quiet machine may be
    held up for a minute by a neighbour. `threads` is the number of threads that compute: others may take what is left
    over of the cores, and of the quota of a container. Where the system does not say what others take, nothing is
    watched, and threads wait as they do by default. As a context manager it watches from beginning to end.
    """

    def __init__(self, threads: int) -> None:
        self._policy = WaitPolicy()
        self._switch = WaitSwitch(threads)
        self._threads = threads
        self._computing = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if threads > 1:
            try:
                uses = other_uses()
            except OSError as error:
                log.info("other processes are not watched: %s", error)
                return
            self._thread = threading.Thread(target=self._run, args=(uses,), name="neighbour-watch", daemon=True)
            self._thread.start()

    @property
    def spinning(self) -> bool:
        """Whether threads wait for one another spinning."""
        return self._switch.spinning

    def resume(self) -> None:
        """This process computes from now on."""
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

    def _run(self, uses: Sequence[OtherUse]) -> None:
        window = max(use.window for use in uses)
        try:
            while not self._closed.is_set():
                if not self._computing.is_set():
                    paused = time.monotonic()
                    self._computing.wait()
                    if time.monotonic() - paused >= window:
                        self._look(uses)  # what others took meanwhile is what to begin with
                self._closed.wait(window)
                self._look(uses)
        except OSError as error:
            log.warning("other processes are watched no more: %s", error)
        finally:
            self._switch.spin()

    def _look(self, uses: Sequence[OtherUse]) -> None:
        seconds, most = 0.0, 0.0
        for use in uses:
            seconds, others = use.since_last()
            most = max(most, others - max(0.0, use.cores - self._threads))
        if self._policy.observe(seconds, most):
            self._switch.spin()
        else:
            self._switch.sleep()
