"""LoopThread: an asyncio event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines and callbacks in `loop` until `end`. Its methods are for other threads."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def result_of(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` in the loop and waits; returns its result, or raises what it raised."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def call(self, callback: Callable[[], None]) -> None:
        """Calls back in the loop, and does not wait. RuntimeError once the loop has ended."""
        self.loop.call_soon_threadsafe(callback)

    def end(self) -> None:
        """Cancels the tasks that are left and ends the thread."""
        self.result_of(_cancel_others())
        self.call(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


async def _cancel_others() -> None:
    """Cancels all tasks of the running loop but this one, and waits for them."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
