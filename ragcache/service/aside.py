"""Aside: a long call on a thread that nothing waits for, not even the end of the process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

Made = TypeVar("Made")


async def aside(make: Callable[[], Made], discard: Callable[[Made], object]) -> Made:
    """What `make` returns or raises on a daemon thread of its own.

    If the caller is cancelled meanwhile it goes on at once, and what is made is discarded on such a thread. The loop's
    own executor would keep the loop, and then the process, until the call has ended.
    """
    future: concurrent.futures.Future[Made] = concurrent.futures.Future()

    def run() -> None:
        try:
            made = make()
        except BaseException as error:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return
        if future.set_running_or_notify_cancel():
            future.set_result(made)
        else:
            discard(made)

    threading.Thread(target=run, name="aside", daemon=True).start()
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.cancel() and future.exception() is None:  # made already, though the caller had not heard of it
            threading.Thread(target=discard, args=(future.result(),), name="aside", daemon=True).start()
        raise
