"""Reopened: a server in the test's own process, which ends and is opened again over what it left on disk.

For tests of what lies on the tiers. What is about signals, a second process or a disk without space needs a `Serving`.
"""

import asyncio
import logging
import threading
import time

import httpx

from ragcache.cli.assembly.torch import assemble
from ragcache.cli.config import ServeConfig
from server.app import create_app
from server.run import HttpServer, bind

PATIENCE = 60


class Reopened:
    """Serves with options of `ragcache serve`, on a free port and with one torch thread; used like a `Serving`."""

    def __init__(self, *options: str) -> None:
        self._warnings = _Warnings()
        logging.getLogger().addHandler(self._warnings)
        settings = {"threads": 1, **settings_of(options)}
        self.service = assemble(ServeConfig.load(None, settings), announce=self._warnings.lines.append)
        bound = bind("127.0.0.1", 0)
        self.url = "http://{}:{}".format(*bound.getsockname())
        self._server = HttpServer(create_app(self.service), bound, grace_seconds=1)
        self._ended = False

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve()
            await self.service.finish_writing(PATIENCE)

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        self._thread.start()

    @property
    def errors(self) -> str:
        """What it has announced and warned of."""
        return "\n".join(self._warnings.lines)

    def ready(self) -> httpx.Client:
        """Waits until it answers; a client of it."""
        deadline = time.monotonic() + PATIENCE
        while not self._server.started:
            assert time.monotonic() < deadline, "it does not serve"
            time.sleep(0.005)
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    def reload(self) -> None:
        """As after SIGHUP."""
        asyncio.run_coroutine_threadsafe(self.service.reload(), self._loop).result(PATIENCE)

    def end(self) -> None:
        """Ends as after SIGTERM, with all memory back and the books in order. A second time, nothing."""
        if self._ended:
            return
        self._ended = True
        self._server.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.service.close()
        logging.getLogger().removeHandler(self._warnings)
        self.service.cache.check_integrity()
        assert self.service.cache.balance().held == 0


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def settings_of(options: tuple[str, ...]) -> dict[str, str | int]:
    """`--like-this 1` as `like_this=1`, and "true" as True."""
    names = [name.removeprefix("--").replace("-", "_") for name in options[::2]]
    values = [value == "true" or (int(value) if value.isdecimal() else value) for value in options[1::2]]
    return dict(zip(names, values, strict=True))
