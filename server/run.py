"""Server: the API on a port, until a signal; running answers finish first."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from ragcache.errors import ConfigError


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet, so that clients are refused until the service is ready.

    ConfigError if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, UnicodeError) as error:
        bound.close()
        raise _cannot_listen(host, port, error) from error
    return bound


Finish = Callable[[float], Awaitable[None]]


def run(app: FastAPI, bound: socket.socket, *, grace_seconds: float, finish: Finish | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then lets running answers finish within `grace_seconds`. Returns normally.

    Then `finish` has as long once more for what else is under way.

    ConfigError if another process, which had bound the address as well, listens already.
    """
    config = uvicorn.Config(_QuietEnd(app), log_level="warning", timeout_graceful_shutdown=max(1, round(grace_seconds)))
    server = _Server(config, app)
    try:
        bound.listen(config.backlog)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _cannot_listen(host, port, error) from error

    async def serve() -> None:
        await server.serve(sockets=[bound])
        if finish is not None:
            await finish(grace_seconds)

    asyncio.run(serve())


def _cannot_listen(host: str, port: int, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else error
    return ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another --host or --port")


class _QuietEnd:
    """ASGI: ends the requests that are cancelled when the grace is over without a traceback in the log."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._app.state.draining:
                raise


class _Server(uvicorn.Server):
    """Ends with success on SIGTERM, where uvicorn's own would raise the signal again when it is done."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del frame
        self._app.state.draining = True
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
