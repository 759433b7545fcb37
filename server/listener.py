"""Listener: takes the connections of a listening socket, and backs off while the process can open no more files."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

FIRST_DELAY_SECONDS, LAST_DELAY_SECONDS = 0.02, 1.0
OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = logging.getLogger(__name__)


class Listener:
    """Accepts until it is closed. It stands for an `asyncio.Server`, whose own loop tries as often as its backlog is
    long in a row when there is no file left, and logs a traceback each time."""

    def __init__(
        self, bound: socket.socket, make: Callable[[], asyncio.Protocol], on_starved: Callable[[OSError], bool]
    ) -> None:
        """Accepts from a listening socket, which the caller closes. `make` makes a connection's protocol.

        `on_starved` is called each time that no connection can be accepted for want of files or memory, and says
        whether it has made room. While it has not, each try comes later than the one before.
        """
        bound.setblocking(False)
        self._bound = bound
        self._make = make
        self._on_starved = on_starved
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Accepts no more."""
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        """Returns once it accepts no more; connections go on."""
        await asyncio.wait([self._accepting])

    async def _accept(self) -> None:
        loop, delay = asyncio.get_running_loop(), FIRST_DELAY_SECONDS
        while True:
            try:
                client, _ = await loop.sock_accept(self._bound)
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    made_room = self._on_starved(error)
                    await asyncio.sleep(0.001 if made_room else delay)  # a file is closed after this turn of the loop
                    delay = FIRST_DELAY_SECONDS if made_room else min(2 * delay, LAST_DELAY_SECONDS)
                elif self._bound.fileno() < 0:
                    return
                continue  # the client has gone, or it is the network's trouble, which accept reports as its own
            delay = FIRST_DELAY_SECONDS
            try:
                await loop.connect_accepted_socket(self._make, client)
            except OSError as error:
                client.close()
                log.warning("a connection was lost as it began: %s", error)
