"""VirtualTimeLoop: an asyncio event loop that jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, NoReturn, TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_FEW_TIMERS = 64  # up to this many, cancelled ones are not cleaned away
_MOST_LISTED = 20  # tasks named in the message of a deadlock


class DeadlockError(RuntimeError):
    """Nothing is ready and no timer is set, but the coroutine that was to run has not ended."""


class OutsideWorldError(NotImplementedError):
    """Code in virtual time used input, output, another thread or a signal: it can have none of them."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Runs asyncio code unchanged, in as much real time as the code itself takes.

    `time()` starts at 0 and stands still while anything is ready. When nothing is, it becomes that of the next timer.

    The order is the same at every run. What is ready runs in the order in which it became ready. Timers that are due
    join behind it, the earliest first; timers of equal times in the order in which they were set. (asyncio's own heap
    compares times alone, and so leaves equal ones in any order.) Sets of tasks, which asyncio keeps in groups and in
    `wait`, have the same order at every run too: a task's hash is its number.

    Work for an executor is done at once, in this thread. It takes no virtual time, and its result is there in the next
    turn of the loop. `call_soon_threadsafe` works within this thread. Whatever needs the outside world raises
    OutsideWorldError.
    """

    # what the base class keeps: callbacks that are ready, whether `stop` was called, and the thread while it runs
    _ready: deque[asyncio.Handle]
    _stopping: bool
    _thread_id: int | None

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []  # a heap
        self._timers_set = 0
        self._maybe_cancelled = 0  # cancelled since the heap was last cleaned, or a little less
        self._tasks_made = 0
        self._intruders: list[str] = []  # threads whose calls were refused
        self.set_task_factory(self._number_task)

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if math.isnan(when):
            raise ValueError("a timer cannot be set to a time that is not a number")
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_set += 1
        heapq.heappush(self._timers, (when, self._timers_set, timer))
        return timer

    def call_soon_threadsafe(
        self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        running_in = self._thread_id
        if running_in is not None and running_in != threading.get_ident():
            name = threading.current_thread().name
            self._intruders.append(name)
            raise OutsideWorldError(f"thread {name!r} called into virtual time, which has one thread only")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Arguments], T], *args: *Arguments
    ) -> asyncio.Future[T]:
        """Does the work at once, in this thread: see the class."""
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:
            self.call_soon(_settle, future, None, error)
        else:
            self.call_soon(_settle, future, result, None)
        return future

    def close(self) -> None:
        self._timers.clear()
        super().close()

    def _run_once(self) -> None:
        """One turn: everything that is ready now runs once."""
        ready, timers = self._ready, self._timers
        while timers:
            when, _, timer = timers[0]
            if timer._cancelled:
                heapq.heappop(timers)
                continue
            if when > self._now:
                if ready or self._stopping or when == math.inf:
                    break
                self._now = when
            heapq.heappop(timers)
            ready.append(timer)
        if not ready and not self._stopping:
            raise DeadlockError(self._deadlock())
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by a handle. Some are cancelled when they have long run: that makes the cleaning early, not wrong."""
        del handle
        self._maybe_cancelled += 1
        if self._maybe_cancelled > _FEW_TIMERS and 2 * self._maybe_cancelled > len(self._timers):
            # this handle is marked after this, and goes next time
            self._timers = [entry for entry in self._timers if not entry[2]._cancelled]
            heapq.heapify(self._timers)
            self._maybe_cancelled = 0

    def _number_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        self._tasks_made += 1
        return _NumberedTask(self._tasks_made, coro, loop, **options)

    def _write_to_self(self) -> None:
        """Nothing sleeps, so nothing has to be woken."""

    def _deadlock(self) -> str:
        waiting = sorted((task for task in asyncio.all_tasks(self) if isinstance(task, _NumberedTask)), key=hash)
        lines = [f"at {self._now} s of virtual time nothing is ready and no timer is set"]
        lines += [f"thread {name!r} had called, and was refused" for name in dict.fromkeys(self._intruders)]
        lines += [f"{task.get_name()} waits in {_where(task)}" for task in waiting[:_MOST_LISTED]]
        if len(waiting) > _MOST_LISTED:
            lines.append(f"and {len(waiting) - _MOST_LISTED} more tasks")
        return "; ".join(lines)


class _NumberedTask(asyncio.Task[Any]):
    """A task with a hash that is the same at every run, so that sets of tasks are in the same order too."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop, **options: Any):
        self._number = number  # first, as the base class puts the task into a set
        if options.get("name") is None:
            options["name"] = f"Task-{number}"  # asyncio would count on from the last run
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Runs the coroutine on a VirtualTimeLoop of its own from time 0 on; cancels the tasks it leaves, like asyncio.run.

    Raises DeadlockError if it waits for something that will never happen.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def _settle(future: asyncio.Future[T], result: Any, error: Exception | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _where(task: asyncio.Task[Any]) -> str:
    """The chain of coroutines that ends where the task waits."""
    names: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        name = getattr(awaited, "__qualname__", None)
        if name is not None:
            names.append(name if frame is None else f"{name} (line {frame.f_lineno})")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return " > ".join(names) or repr(task)


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(_loop: VirtualTimeLoop, *_args: Any, **_options: Any) -> NoReturn:
        raise OutsideWorldError(f"{name}: there is no input, output or signal in virtual time")

    refuse.__name__ = name
    return refuse


_REFUSED: Sequence[str] = (
    "add_reader", "remove_reader", "add_writer", "remove_writer", "add_signal_handler", "remove_signal_handler",
    "sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendall", "sock_sendto",
    "sock_connect", "sock_accept", "sock_sendfile", "sendfile", "start_tls", "getaddrinfo", "getnameinfo",
    "create_connection", "create_server", "create_unix_connection", "create_unix_server", "create_datagram_endpoint",
    "connect_accepted_socket", "connect_read_pipe", "connect_write_pipe", "subprocess_shell", "subprocess_exec",
)  # fmt: skip
for _name in _REFUSED:
    setattr(VirtualTimeLoop, _name, _refusal(_name))
