"""HttpServer: the API on a port until it is stopped or a signal comes; running answers finish first."""

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

    Port 0 takes any free one. Raises ConfigError if the address cannot be used.
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


def url_of(bound: socket.socket) -> str:
    """The address that a client of this bound socket uses, such as http://127.0.0.1:8000."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


Finish = Callable[[float], Awaitable[None]]


class HttpServer:
    """Serves an app on a bound socket. On the main thread, SIGTERM and SIGINT stop it, and a second SIGINT at once."""

    def __init__(self, app: FastAPI, bound: socket.socket, *, grace_seconds: float) -> None:
        """Listens from now on: clients wait until `serve` runs.

        Raises ConfigError if another process, which had bound the address as well, listens already.
        """
        self._bound = bound
        config = uvicorn.Config(
            _QuietEnd(app), log_level="warning", timeout_graceful_shutdown=max(1, round(grace_seconds))
        )
        self._server = _Server(config, app)
        try:
            bound.listen(config.backlog)
        except OSError as error:
            host, port = bound.getsockname()[:2]
            raise _cannot_listen(host, port, error) from error

    async def serve(self) -> None:
        """Serves until it is stopped, then lets running answers finish within the grace. Closes the socket."""
        await self._server.serve(sockets=[self._bound])

    def stop(self) -> None:
        """Ends `serve`: no new connections, and new questions are refused (503). Called on the loop that serves."""
        self._server.stop()


def run(app: FastAPI, bound: socket.socket, *, grace_seconds: float, finish: Finish | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then lets running answers finish within `grace_seconds`. Returns normally.

    After that, `finish` has the same time again for whatever else is under way. Raises ConfigError as HttpServer does.
    """
    server = HttpServer(app, bound, grace_seconds=grace_seconds)

    async def serve() -> None:
        await server.serve()
        if finish is not None:
            await finish(grace_seconds)

    asyncio.run(serve())


def _cannot_listen(host: str, port: int, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else error
    return ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another --host or --port")


class _QuietEnd:
    """ASGI: requests that are cancelled when the grace is over end without a traceback in the log."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._app.state.draining:
                raise


class _Server(uvicorn.Server):
    """Ends normally on SIGTERM, where uvicorn's own server would raise the signal again when it is done."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del frame
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.stop()

    def stop(self) -> None:
        self._app.state.draining = True
        self.should_exit = True
