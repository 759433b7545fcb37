"""WaitPolicy: whether threads that share a computation wait for one another spinning or asleep."""

from __future__ import annotations

from dataclasses import dataclass

BUSY = 0.3  # of a core taken by others: a thread that spins now holds up one that computes
QUIET = 0.15  # of a core: servers that idle, clients that wait, and the error of counting by ticks
CALM = 0.5  # seconds


@dataclass(slots=True)
class WaitPolicy:
    """Spins while the machine is quiet, sleeps from the first sign of others on, and spins again after CALM seconds.

    A thread that waits asleep costs a wake-up for each operation. One that waits spinning on a busy machine uses up the
    time in which the thread that it waits for could have run, and loses its turn itself: many times as much. Between
    QUIET and BUSY all stays as it is.
    """

    spinning: bool = True
    calm: float = 0.0  # seconds for which the machine has been quiet

    def observe(self, seconds: float, others: float) -> bool:
        """Takes in that others took this many cores in the last `seconds`, and returns whether to spin."""
        self.calm = self.calm + seconds if others <= QUIET else 0.0
        if others >= BUSY:
            self.spinning = False
        elif self.calm >= CALM:
            self.spinning = True
        return self.spinning
