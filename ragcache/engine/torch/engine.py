"""TorchEngine: the embedded engine. One thread steps a TorchModel over all running jobs."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import torch

from ragcache.engine.protocol import EngineStats, Job
from ragcache.engine.torch.batch import Batch, Deliver, RunningJob
from ragcache.engine.torch.kv import KVSpan
from ragcache.engine.torch.model import TorchModel
from ragcache.engine.torch.neighbour_watch import NeighbourWatch
from ragcache.errors import EngineError

log = logging.getLogger(__name__)

# this many deaths of the thread within this time are not an accident: the engine stays dead
MAX_DEATHS = 5
DEATHS_SECONDS = 60.0
SHUT_DOWN = "the engine was shut down"


def leave_cores_to_engine() -> None:
    """Limits the calling thread to one torch thread; to be called before it computes anything.

    Each thread that runs parallel torch work gets a pool of OpenMP threads of its own, and once the pools together
    exceed the cores libgomp stops spinning: a decode step of the engine then took 1.5 times as long.
    """
    torch.set_num_threads(1)


class TorchEngine:
    """Steps a batch: each runs one forward over a token of every decoding job and a chunk of the oldest prefills.

    `prefill_chunk` bounds the prompt tokens of a step, and so how long a decode or a cancellation waits.
    `threads` is the number of torch threads of the stepping thread (None: torch's default). On a CPU they wait for one
    another spinning on a quiet machine, and asleep beside other processes. While it has no job, the stepping thread
    runs the model's preparation.

    If the stepping thread dies, every job that ran or waited ends with Failed and another thread takes over, until the
    fifth death within a minute: from then on jobs are refused with EngineError. So they are from the first death on if
    the device is lost. EngineError, too, where an engine is made and no thread of it lives to begin.
    """

    def __init__(self, model: TorchModel, *, prefill_chunk: int = 512, threads: int | None = None) -> None:
        if prefill_chunk < 1:
            raise ValueError(f"prefill_chunk must be at least 1, not {prefill_chunk}")
        self.model = model
        self._threads = threads
        self._batch = Batch(model, prefill_chunk)  # the stepping thread's, as is what follows
        self._preparation = model.preparation()  # if it raises it is over, and the next thread goes on without it
        self._prepared = False
        self._inbox: queue.SimpleQueue[RunningJob | None] = queue.SimpleQueue()
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        # guards what follows, and that nothing is put into the inbox of an engine that is closed or dead
        self._lock = threading.Lock()
        self._closed = False
        self._dead = False
        self._error: str | None = None
        self._restarts = 0
        on_cpu = model.device.type == "cpu"
        self._watch = NeighbourWatch((threads or torch.get_num_threads()) if on_cpu else 1)
        self._begun = threading.Event()  # a thread waits for jobs, or none will
        self._thread = self._start_thread()
        self._begun.wait()
        if self._dead:
            self._watch.close()
            raise EngineError(f"the engine could not begin: {self._error}")

    @property
    def context_length(self) -> int:
        return self.model.context_length

    @property
    def bytes_per_token(self) -> int:
        return self.model.layout.bytes_per_token

    def allocate(self, tokens: int) -> KVSpan:
        try:
            return self.model.layout.allocate(tokens, self.model.device)
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            if self.model.lost():
                raise EngineError(f"the device is lost, restart the server: {error}") from error
            raise

    def submit(self, job: Job, deliver: Deliver) -> Callable[[], None]:
        running = RunningJob.of(job, deliver)
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if self._dead:
                raise EngineError(f"the engine takes no more jobs, restart the server: {self._error}")
            self._inbox.put(running)
        return running.cancelled.set

    def stats(self) -> EngineStats:
        with self._lock:
            return replace(
                self._batch.stats(),
                restarts=self._restarts,
                error=self._error,
                alive=not (self._closed or self._dead),
            )

    def close(self) -> None:
        with self._lock:
            self._closed = True  # from here on no thread takes over from this one
            thread = self._thread
        self._inbox.put(None)
        thread.join()
        self._watch.close()

    def _start_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="torch-engine", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        try:
            if self._threads is not None:
                torch.set_num_threads(self._threads)  # OpenMP counts threads per calling thread
            self._begun.set()
            while self._receive():
                self._batch.drop_cancelled()
                self._batch.step()
        except BaseException as error:
            log.critical("the engine's thread died", exc_info=True)
            died = f"the engine's thread died: {type(error).__name__}: {error}"
            lost = self.model.lost()
        else:
            self._empty_inbox()
            self._batch.fail_all(SHUT_DOWN)
            return
        self._watch.pause()
        self._hand_over(died, lost=lost)

    def _receive(self) -> bool:
        """Takes in submitted jobs, waiting for one when idle and prepared. Returns False when the engine is to end."""
        while True:
            idle = not self._batch.running
            if idle and self._prepared:
                self._watch.pause()
            try:
                running = self._inbox.get(block=idle and self._prepared)
            except queue.Empty:
                if not idle:
                    return True
                self._prepared = next(self._preparation, self) is self
                continue
            finally:
                self._watch.resume()
            if running is None:
                return False
            self._batch.add(running)

    def _empty_inbox(self) -> None:
        while not self._inbox.empty():
            if (running := self._inbox.get()) is not None:
                self._batch.add(running)

    def _hand_over(self, died: str, *, lost: bool) -> None:
        """Last act of a dying thread: ends the jobs and, unless the device is lost, starts the next thread."""
        now = time.monotonic()
        self._deaths.append(now)
        with self._lock:
            self._error = died
            # before events are delivered: jobs submitted by listeners are for the next thread, or refused
            self._dead = lost or (len(self._deaths) == MAX_DEATHS and now - self._deaths[0] < DEATHS_SECONDS)
            self._empty_inbox()
        self._batch.fail_all(died)
        with self._lock:
            if not self._closed and not self._dead:
                try:
                    self._thread = self._start_thread()
                except RuntimeError as error:  # the system has no thread left
                    self._dead = True
                    self._error = f"{died}; no other could be started: {error}"
                else:
                    self._restarts += 1
                    return  # the batch belongs to the other thread now
            self._empty_inbox()  # jobs that came while events were delivered
            last_words = SHUT_DOWN if self._closed else died
        self._batch.fail_all(last_words)
        self._begun.set()
