"""The API on a real port, in a thread of the test's process or in one of its own, over services of the tiny model."""

import asyncio
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from eval.props.uncached import Uncached, answer_uncached
from ragcache.cli.config import ServeConfig
from ragcache.service.service import RagService
from server.app import create_app
from server.run import HttpServer, bind
from tests.props.reopened import Reopened
from tests.server.questions import LENGTHS, QUESTIONS
from tests.server.serving import Serving

PATIENCE = 30


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("tests.props.live")


@dataclasses.dataclass
class Site:
    """A running server and a client of it."""

    service: RagService
    app: FastAPI
    http: httpx.Client
    address: tuple[str, int]
    server: HttpServer

    def ask(self, question: Any = "Why do otters hold hands?", **body: Any) -> httpx.Response:
        return self.http.post("/v1/query", json={"question": question, **body})

    def post(self, content: bytes, content_type: str = "application/json") -> httpx.Response:
        return self.http.post("/v1/query", content=content, headers={"Content-Type": content_type})

    def raw(self, sent: bytes = b"") -> socket.socket:
        """A bare connection that has sent this."""
        raw = socket.create_connection(self.address, timeout=PATIENCE)
        raw.sendall(sent)
        return raw

    def connect(self, body: dict[str, Any]) -> socket.socket:
        """A bare connection that has sent a query."""
        content = json.dumps(body).encode()
        return self.raw(
            b"POST /v1/query HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
        )

    def settled(self) -> None:
        """Waits until nothing runs and nothing is held."""
        until(lambda: self.service.cache.balance().held == 0 and not self.service.running + self.service.waiting)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def open_site(make_service) -> Iterator[Callable[..., Site]]:
    """Serves on a free port; `http` are options of HttpServer, `ping` and `steady` (its health's) seconds, others those
    of `make_service`.

    When the test is over the server stops first, then its service is checked.
    """
    running: list[tuple[HttpServer, threading.Thread, httpx.Client]] = []

    def start(
        *,
        http: dict[str, Any] | None = None,
        cors_origins: tuple[str, ...] = (),
        ping: float = 10.0,
        steady: float = 0.0,
        **options: Any,
    ) -> Site:
        service = make_service(**options)
        service._health.steady_seconds = steady
        app = create_app(service, ping_seconds=ping)
        bound = bind("127.0.0.1", 0)
        host, port = bound.getsockname()
        server = HttpServer(app, bound, cors_origins=cors_origins, **{"grace_seconds": 1, **(http or {})})

        async def serve() -> None:
            await server.serve()
            await service.finish_writing(PATIENCE)

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        until(lambda: server.started)
        client = httpx.Client(base_url=f"http://{host}:{port}", timeout=PATIENCE, trust_env=False)
        running.append((server, thread, client))
        return Site(service, app, client, (host, port), server)

    yield start
    for server, thread, client in running:
        client.close()
        server.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def site(open_site) -> Site:
    return open_site()


@pytest.fixture
def serve(tiny_index: Path, tiny_folder: Path) -> Iterator[Callable[..., Serving]]:
    """Starts `ragcache serve` processes, by default of the tiny model and index; they end with the test."""
    started: list[Serving] = []

    def start(
        *options: str, model: Path | str = tiny_folder, index: Path = tiny_index, files: int | None = None
    ) -> Serving:
        arguments = ["--index", str(index / "faiss.idx"), "--model", str(model), "--port", "0"]
        started.append(Serving(*arguments, "--threads", "1", *options, files=files))
        return started[-1]

    yield start
    for serving in started:
        serving.close()


@pytest.fixture
def reopen(tiny_index: Path, tiny_folder: Path) -> Iterator[Callable[..., Reopened]]:
    """As `serve`, in this process: for what is about records on the tiers, and not about the process."""
    opened: list[Reopened] = []

    def start(*options: str, model: Path = tiny_folder) -> Reopened:
        opened.append(Reopened("--index", str(tiny_index), "--model", str(model), *options))
        return opened[-1]

    yield start
    for each in opened:
        each.end()


@pytest.fixture(scope="session")
def uncached(tiny_index: Path, tiny_folder: Path) -> dict[str, Uncached]:
    """What the tiny model answers to QUESTIONS without a cache."""
    config = ServeConfig(index=tiny_index, model=str(tiny_folder), cache=False, threads=1, **LENGTHS)
    return answer_uncached(config, QUESTIONS)
