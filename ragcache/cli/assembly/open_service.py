"""OpenService: a service in this process, for scripts that call it from ordinary code, with and without HTTP."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import logging
import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ragcache.cli.assembly.engines import assembly_of
from ragcache.cli.assembly.http import http_server
from ragcache.cli.config import ServeConfig
from ragcache.errors import ConfigError, RagCacheError
from ragcache.service.answer import Answer, Query, ServiceEvent
from ragcache.service.service import RagService
from retrieval.errors import RetrievalError
from server.run import HttpServer, bind, url_of

log = logging.getLogger(__name__)

# what a request sends to the thread that waits for it; None ends it
_Arrivals = queue.SimpleQueue[ServiceEvent | Exception | None]
_OPTIONS = tuple(field.name for field in dataclasses.fields(Query) if field.name != "question")


def open_service(index: Path | str, model: str = "default", port: int | None = None, **settings: Any) -> OpenService:
    """A service over an index of `ragcache index` (its faiss.idx) and a model, to be used in a `with` statement.

    With a `port` it is served over HTTP as well (0: on any free port; the address is `url`). `settings` are the fields
    of ServeConfig, which are the options of `ragcache serve`; sizes are bytes or a text such as "8GiB". `policy` may be
    a class. Limits the calling thread to one torch thread, so that the engine has the cores.

        with ragcache.open_service(index="idx/faiss.idx") as service:
            print(service.ask("Why do otters hold hands?").answer)

    Raises ConfigError or ModelError, before it returns, for what cannot be used.
    """
    if index is None:  # which stands for a setting that is not given where settings come from a command line
        raise ConfigError("index is None: give the path of faiss.idx in a folder that `ragcache index` wrote")
    config = ServeConfig.load(None, {"index": index, "model": model, "port": port, **settings})
    return OpenService(config, http=port is not None)


class OpenService:
    """A running service of this process, with an event loop in a thread of its own: any thread may call it, also from
    within a running event loop, which waits for the answer meanwhile.

    `service` is the RagService, which belongs to that loop. Close it, or use it in a `with` statement: only then is the
    KV that waits to be written to disk written.
    """

    def __init__(self, config: ServeConfig, *, http: bool = False) -> None:
        """Loads what the settings name and runs. Raises ConfigError or ModelError; nothing stays open then."""
        self._closing = threading.Lock()
        self._closed = False
        self._url: str | None = None
        with contextlib.ExitStack() as opened:
            # before the seconds of loading: a busy port is reported at once
            bound = opened.enter_context(bind(config.host, config.port)) if http else None
            try:
                self.service = assembly_of(config.engine)(config, log.info)
            except RetrievalError as error:
                raise ConfigError(str(error)) from error
            opened.callback(self.service.close)
            server = None
            if bound is not None:
                server = http_server(self.service, config, bound)
                self._url = url_of(bound)
            self._running = _ServiceThread(self.service, server, config.grace_seconds)
            opened.pop_all()
        atexit.register(self._end, finish=False)  # threads that write to disk are gone by then

    @property
    def url(self) -> str:
        """Where it serves HTTP, such as http://127.0.0.1:8000. Raises ConfigError if it was opened without a port, and
        RagCacheError if it is closed."""
        self._check_open()
        if self._url is None:
            raise ConfigError("this service is not served over HTTP: open it with open_service(..., port=0)")
        return self._url

    def ask(self, question: str, **options: Any) -> Answer:
        """The answer to a question. `options` are fields of Query, such as `top_k`, `max_tokens` and `temperature`.

        Raises what the service raises: BadQuery, Overloaded, DeadlineExceeded or EngineError; and RagCacheError if the
        search fails or the service is closed.
        """
        *_, last = self.stream(question, **options)
        assert isinstance(last, Answer)
        return last

    def stream(self, question: str, **options: Any) -> Iterator[ServiceEvent]:
        """Yields Retrieved (the documents), then Delta (a piece of text) by Delta, and the Answer last.

        The request is sent when the first event is asked for; closing the iterator cancels it. Options and errors are
        those of `ask`.
        """
        self._check_open()
        if unknown := sorted(options.keys() - set(_OPTIONS)):
            raise TypeError(f"a question has no option {unknown[0]!r}; there are {', '.join(_OPTIONS)}")
        stop = options.get("stop") or ()
        if isinstance(stop, str):
            stop = (stop,)
        options["stop"] = tuple(stop) if isinstance(stop, Iterable) else stop  # which the service refuses
        return self._running.events(Query(question, **options))

    def close(self) -> None:
        """Stops serving, cancels what is being answered, finishes what is to be on disk, and lets go of everything.

        HTTP requests have `grace_seconds` to finish, and the disk as long again. A second call does nothing.
        """
        self._end(finish=True)

    def _check_open(self) -> None:
        if self._closed:
            raise _closed_error()

    def _end(self, *, finish: bool) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
            atexit.unregister(self._end)
            try:
                self._running.end(finish=finish)
            finally:
                self.service.close()

    def __enter__(self) -> OpenService:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _ServiceThread:
    """The thread with the event loop that a service belongs to, and with its HTTP server, if there is one."""

    def __init__(self, service: RagService, server: HttpServer | None, grace_seconds: float) -> None:
        """Starts the thread, which runs until `end`. `grace_seconds` is how long running requests may take by then."""
        self._service = service
        self._server = server
        self._grace_seconds = grace_seconds
        self._finish = True
        self._requests: set[asyncio.Task[None]] = set()  # touched on the loop alone
        self._lock = threading.Lock()  # for the next two
        self._arrivals: set[_Arrivals] = set()
        self._ended = False
        loops: queue.SimpleQueue[asyncio.AbstractEventLoop] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(loops,), name="ragcache-service", daemon=True)
        self._thread.start()
        self._loop = loops.get()

    def events(self, query: Query) -> Iterator[ServiceEvent]:
        """The events of a request, which begins when the first of them is asked for."""
        arrivals: _Arrivals = queue.SimpleQueue()
        with self._lock:
            if self._ended:
                raise _closed_error()
            self._arrivals.add(arrivals)
            request = asyncio.run_coroutine_threadsafe(self._forward(query, arrivals), self._loop)
        try:
            while (event := arrivals.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            request.cancel()
            with self._lock:
                self._arrivals.discard(arrivals)

    def end(self, *, finish: bool) -> None:
        """Returns when the thread has ended. Unless it is to `finish`, what is not on disk yet is given up."""
        self._finish = finish
        with contextlib.suppress(RuntimeError):  # the loop is closed: the thread ended by itself
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    def _run(self, loops: queue.SimpleQueue[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._main(loops))
        finally:
            with self._lock:
                self._ended = True
                for arrivals in self._arrivals:  # also of a request that came too late to begin
                    arrivals.put(_closed_error())

    async def _main(self, loops: queue.SimpleQueue[asyncio.AbstractEventLoop]) -> None:
        self._ending = asyncio.Event()
        loops.put(asyncio.get_running_loop())
        serving = None if self._server is None else asyncio.create_task(self._server.serve())
        await self._ending.wait()
        if self._server is not None and serving is not None:
            self._server.stop()
            await serving
        for request in self._requests:
            request.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        if self._finish:
            await self._service.finish_writing(self._grace_seconds)

    async def _forward(self, query: Query, arrivals: _Arrivals) -> None:
        request = asyncio.current_task()
        assert request is not None
        self._requests.add(request)
        try:
            async with contextlib.aclosing(self._service.ask(query)) as events:
                async for event in events:
                    arrivals.put(event)
            arrivals.put(None)
        except RetrievalError as error:
            failed = RagCacheError(str(error))
            failed.__cause__ = error
            arrivals.put(failed)
        except Exception as error:  # raised where the caller waits
            arrivals.put(error)
        finally:
            self._requests.discard(request)


def _closed_error() -> RagCacheError:
    return RagCacheError("this service is closed: open another with ragcache.open_service(...)")
