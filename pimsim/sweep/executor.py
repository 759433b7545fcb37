"""Executor: what simulates the chunks of a sweep: this process, others on this machine, or a Ray cluster."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection

from pimsim.errors import PimsimError, WorkloadError
from pimsim.sweep.point import Chunk, simulate_chunk
from pimsim.sweep.table import Row

# gives what `simulate_chunk` does for each chunk, in the order in which they end; closing it ends all work at once
Rows = Generator[tuple[int, list[Row]], None, None]
Executor = Callable[[Sequence[Chunk], int], Rows]

WAITING = 2  # chunks in hand for each worker: none waits for the parent, and few are lost when it ends


def processes(chunks: Sequence[Chunk], workers: int) -> Rows:
    """Simulate in as many processes as workers, each a fresh interpreter; a single worker is this process itself.

    They end with this process, however that ends. PimsimError if one of them is killed.
    """
    if workers == 1:
        yield from map(simulate_chunk, chunks)
        return
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent, initargs=(reader,))
    left, pending = iter(chunks), set[Future[tuple[int, list[Row]]]]()
    try:
        with _interrupts_ignored():  # processes inherit it: Ctrl-C is for the one that writes
            for _, chunk in zip(range(workers * WAITING), left, strict=False):
                pending.add(pool.submit(simulate_chunk, chunk))
        while pending:
            ended, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in ended:
                yield future.result()
                if (following := next(left, None)) is not None:
                    pending.add(pool.submit(simulate_chunk, following))
    except BrokenProcessPool as error:
        raise PimsimError(
            "a process of the sweep has ended: was it killed, or is memory short (then take fewer --workers)? A script"
            " that sweeps keeps that under `if __name__ == '__main__':`. What had ended is kept: sweep again to go on"
        ) from error
    finally:
        pool.shutdown(wait=not pending, cancel_futures=True)
        writer.close()  # a worker that still runs ends
        reader.close()


def on_ray(chunks: Sequence[Chunk], workers: int) -> Rows:
    """Simulate as tasks of a Ray cluster: the one that is connected or that RAY_ADDRESS names, or else `workers`
    processes here.

    The cluster's nodes need pimsim, and the files that the sweep names under the same paths.
    """
    try:
        ray = importlib.import_module("ray")  # it takes a second, and only some have it
    except ImportError as error:
        raise PimsimError("the executor ray needs Ray: pip install 'ragcache[ray]'") from error
    connected = ray.is_initialized()
    if not connected:
        own = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", configure_logging=False, **own)
    try:
        remote = ray.remote(simulate_chunk)
        at_once = WAITING * max(1, int(ray.cluster_resources().get("CPU", workers)))
        left = iter(chunks)
        pending = [remote.remote(chunk) for _, chunk in zip(range(at_once), left, strict=False)]
        while pending:
            ended, pending = ray.wait(pending, num_returns=1)
            for chunk_rows in ended:
                yield ray.get(chunk_rows)
                if (following := next(left, None)) is not None:
                    pending.append(remote.remote(following))
    except ray.exceptions.RayError as error:
        raise PimsimError(f"Ray: {error}. What had ended is kept: sweep again to go on") from error
    finally:
        if not connected:
            ray.shutdown()


# the word that --executor says
EXECUTORS: dict[str, Executor] = {"processes": processes, "ray": on_ray}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def executor(name: str, workers: int) -> Executor:
    """The executor of that name. WorkloadError for an unknown name, or fewer than one worker."""
    if name not in EXECUTORS:
        raise WorkloadError(f"the executor must be {' or '.join(EXECUTORS)}, not {name!r}")
    if workers < 1:
        raise WorkloadError(f"workers must be 1 or more, not {workers}")
    return EXECUTORS[name]


def _end_with_parent(reader: Connection) -> None:
    """Leave at once when the parent closes its end of the pipe, which its death does, too."""

    def watch() -> None:
        reader.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
