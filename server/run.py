"""HttpServer: the API on a port until it is stopped or a signal comes; running answers finish first."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence, Set
from typing import cast

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from ragcache.errors import ConfigError
from server.connection import PATIENCE, Connection, Patience
from server.cors import Cors, headers_unseen
from server.crowd import Crowd, most_connections
from server.farewell import Farewell
from server.interruption import Interruptible
from server.listener import Listener
from server.request_log import RequestLog
from server.signals import Hangups, on_stop_signals

FAREWELL_SECONDS = 1.0  # for clients to take what they are told when the grace is over
EVERYWHERE = ("0.0.0.0", "::")  # hosts that stand for all addresses of the machine

log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet, so that clients are refused until the service is ready.

    Port 0 takes any free one. Raises ConfigError if the address cannot be used, and if it stands for all of the
    machine's without being written as such: the system reads the empty text and 0 so.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, UnicodeError) as error:
        bound.close()
        raise _cannot_listen(host, port, error) from error
    if host not in EVERYWHERE and _is_everywhere(bound.getsockname()[0]):
        bound.close()
        raise ConfigError(
            f"host is {host!r}, which would listen on every address of this machine: choose one, such as 127.0.0.1, "
            "or, for all, 0.0.0.0 or ::"
        )
    return bound


def _is_everywhere(host: str) -> bool:
    """Whether a bound address stands for all of a machine's, or for all of version 4."""
    address = ipaddress.ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_unspecified


def url_of(bound: socket.socket) -> str:
    """The address that a client of this bound socket uses, such as http://127.0.0.1:8000."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


Finish = Callable[[float], Awaitable[None]]


class HttpServer:
    """Serves an app on a bound socket until it is stopped."""

    def __init__(
        self,
        app: FastAPI,
        bound: socket.socket,
        *,
        grace_seconds: float,
        patience: Patience = PATIENCE,
        max_connections: int = 0,
        cors_origins: Sequence[str] = (),
    ) -> None:
        """Listens from now on: clients wait until `serve` runs.

        `grace_seconds` is how long running requests may take once it is stopped, `patience` how long it waits for
        clients. `max_connections` may be open at a time (0: as many as the process can open files). Scripts of pages
        from `cors_origins` may ask. Raises ConfigError if another process, which had bound the address as well, listens
        already.
        """
        self._bound = bound
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        answering: ASGIApp = Farewell(Interruptible(app), lambda: bool(app.state.draining))
        if cors_origins:
            answering = Cors(answering, cors_origins)
        # `ws`: nothing here is a WebSocket; `loop`: the caller's
        config = uvicorn.Config(
            RequestLog(answering), log_config=None, log_level="warning", http="h11", ws="none", loop="none"
        )
        make = functools.partial(Connection, patience=patience, headers_unseen=headers_unseen(cors_origins))
        self._server = _Server(config, app, grace_seconds, make, max_connections)
        try:
            bound.listen(config.backlog)
        except OSError as error:
            host, port = bound.getsockname()[:2]
            raise _cannot_listen(host, port, error) from error

    @property
    def started(self) -> bool:
        """Whether it accepts connections, or has."""
        return self._server.started

    @property
    def connections(self) -> Set[object]:
        """The open ones."""
        return self._server.server_state.connections

    async def serve(self) -> None:
        """Serves until it is stopped, then lets running requests finish within the grace. Closes the socket."""
        await self._server.serve(sockets=[self._bound])

    def stop(self) -> None:
        """Ends `serve`: no new connections, and new questions are refused (503). Called on the thread that serves."""
        self._server.stop()


def run(
    server: HttpServer,
    *,
    finish: Callable[[], Awaitable[None]],
    reload: Callable[[], Awaitable[None]],
    hangups: Hangups,
) -> None:
    """Serves until SIGTERM or SIGINT, then lets running requests finish. A second of these ends the process at once,
    also after this returns. Call on the main thread.

    `finish` ends whatever else is under way. SIGHUP, of which `hangups` knows, calls `reload`.
    """

    async def serve() -> None:
        reloading = asyncio.create_task(hangups.serve(reload))
        on_stop_signals(server.stop)
        await server.serve()
        reloading.cancel()
        await finish()

    asyncio.run(serve())


def _is_news(record: logging.LogRecord) -> bool:
    """Not what strangers send to an open port: they are told, and their lines would fill the log."""
    return record.msg != "Invalid HTTP request received."


def _cannot_listen(host: str, port: int, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else error
    return ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another --host or --port")


class _Server(uvicorn.Server):
    """uvicorn's server, with a listener, connections, signals and an end of its own."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: FastAPI,
        grace_seconds: float,
        make: Callable[..., Connection],
        max_connections: int,
    ) -> None:
        super().__init__(config)
        self._app = app
        self._grace_seconds = grace_seconds
        self._make = make
        self._max_connections = max_connections

    def stop(self) -> None:
        self._app.state.draining = True
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are `run`'s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        most = most_connections()
        members = cast("set[Connection]", self.server_state.connections)
        crowd = Crowd(members, min(self._max_connections or most, most))

        def connection() -> Connection:
            return self._make(self.config, self.server_state, self.lifespan.state, admits=crowd.admits)

        listeners = [Listener(bound, connection, crowd.starved) for bound in sockets or []]
        self.servers = cast("list[asyncio.Server]", listeners)  # of which uvicorn uses what a Listener has

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        running = len(self.server_state.tasks)
        log.info("stopping: no new connections; %d running requests have %g s", running, self._grace_seconds)
        over = asyncio.get_running_loop().call_later(self._grace_seconds, self._end_grace)
        try:
            await super().shutdown(sockets)
        finally:
            over.cancel()

    def _end_grace(self) -> None:
        """Cancels the requests that still run, each of which is told so, and lets go of clients that do not listen."""
        if running := len(self.server_state.tasks):
            log.warning("the grace of %g s is over: %d running requests are ended", self._grace_seconds, running)
        for request in self.server_state.tasks:
            request.cancel()
        asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._abort)

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
