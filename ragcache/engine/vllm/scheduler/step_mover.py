"""StepMover: moves KV by orders to the workers."""

from __future__ import annotations

from ragcache.cache.mover import Moved
from ragcache.engine.vllm.scheduler.dispatch import Dispatch, Done, Work


class StepMover:
    """A Mover whose work gives one order each. It ends once all workers have reported that order's outcome."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self.pending = 0

    def submit(self, work: Work, done: Done) -> None:
        self.pending += 1

        def finish(moved: Moved) -> None:
            self.pending -= 1
            done(moved)

        self._dispatch.submit(work, finish)

    def close(self) -> None:
        """Does not wait: without another step, no worker does anything."""
