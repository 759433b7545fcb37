"""RagClient: sends questions to a running server and reads its stream."""

from __future__ import annotations

import json
import math
import ssl
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import httpx

from ragcache.errors import RagCacheError

DEFAULT_URL = "http://127.0.0.1:8000"


class ServerError(RagCacheError):
    """The server could not be reached, or refused the request."""


def server_url(url: str) -> str:
    """The address of a server without slashes at its end. Raises ServerError for what is not http://HOST:PORT."""
    text = url.rstrip("/")
    try:
        parts = httpx.URL(text)
    except httpx.InvalidURL as error:
        wrong = str(error)
    else:
        wrong = _wrong(parts)
    if wrong:
        raise ServerError(f"{url!r} is not the address of a server: {wrong}; write http://HOST:PORT")
    return text


def _wrong(url: httpx.URL) -> str:
    """What keeps a URL from being that of a server; empty if nothing does."""
    if url.scheme not in ("http", "https"):
        return "it does not begin with http://"
    if not url.host:
        return "it names no host"
    if "%" in url.host and ":" not in url.host:  # of a blank, for one; an address of version 6 may name its zone so
        return f"{unquote(url.host)!r} is not the name of a host"
    if url.port is not None and not 0 < url.port < 65536:
        return f"{url.port} is not a port"
    return ""


def no_answer(url: str, error: httpx.HTTPError) -> ServerError:
    """The error for a request that had no answer, or only a part of one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return ServerError(f"no answer from {url}: {error}; is `ragcache serve` running there?")
    return ServerError(
        f"no answer from {url}: what is there speaks no https, or its certificate is not trusted ({cause}); "
        "`ragcache serve` itself speaks http: write http://HOST:PORT"
    )


class RagClient:
    """A connection to one server, which is closed by `close` or at the end of a `with` statement.

    Every method raises ServerError if the server cannot be reached or refuses; the message is the server's.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout_seconds: float = 600.0) -> None:
        """`url` is http://HOST:PORT. `timeout_seconds` is the longest silence of the server. Raises ServerError for a
        URL that cannot be used."""
        self.url = server_url(url)
        timeout = httpx.Timeout(timeout_seconds, connect=5.0)
        self._http = httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)

    def stream(self, question: str, **options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the events of an answer as pairs of name and data: `documents`, `delta` by `delta`, and last `done`.

        The data are the bodies of the HTTP API. `options` are fields of `POST /v1/query` besides the question, such as
        `top_k`, `max_tokens` and `temperature`; for None the server's default holds.
        """
        body = {"question": question, "stream": True, **{k: v for k, v in options.items() if v is not None}}
        for name, value in options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ServerError(f"the question cannot be sent: {name} must be a finite number, not {value}")
        try:
            content = json.dumps(body, allow_nan=False).encode()
        except ValueError as error:
            raise ServerError(f"the question cannot be sent: {error}") from error
        headers = {"Content-Type": "application/json"}
        name = ""
        try:
            with self._http.stream("POST", "/v1/query", content=content, headers=headers) as response:
                if response.status_code != 200:
                    response.read()
                    raise ServerError(_message(response))
                for line in response.iter_lines():
                    if line.startswith("event: "):
                        name = line.removeprefix("event: ")
                    elif line.startswith("data: "):
                        data = json.loads(line.removeprefix("data: "))
                        if name == "error":
                            raise ServerError(data["error"]["message"])
                        yield name, data
        except httpx.HTTPError as error:
            raise no_answer(self.url, error) from error
        except json.JSONDecodeError as error:
            raise ServerError(f"{self.url} is not a ragcache server, or not of this version: {error}") from error
        if name != "done":
            raise ServerError(f"{self.url} ended its answer early; its log may say why")

    def ask(self, question: str, **options: Any) -> dict[str, Any]:
        """The whole answer: the body that `POST /v1/query` answers with. `options` are those of `stream`."""
        *_, (_, answer) = self.stream(question, **options)
        return answer

    def get(self, path: str) -> Any:
        """The JSON that a GET of this path answers with, such as "/v1/cache" or "/readyz"."""
        return self._request("GET", path)

    def clear_cache(self) -> dict[str, int]:
        """Drops all KV that no running request holds; returns `dropped_nodes`, `dropped_bytes` and `held_bytes`."""
        return dict(self._request("DELETE", "/v1/cache"))

    def _request(self, method: str, path: str) -> Any:
        try:
            response = self._http.request(method, path)
        except httpx.HTTPError as error:
            raise no_answer(self.url, error) from error
        if response.status_code != 200:
            raise ServerError(_message(response))
        return response.json()

    def close(self) -> None:
        """Closes the connection. A second call does nothing."""
        self._http.close()

    def __enter__(self) -> RagClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _message(response: httpx.Response) -> str:
    try:
        return f"{response.json()['error']['message']} (HTTP {response.status_code})"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code} from {response.request.url}"
