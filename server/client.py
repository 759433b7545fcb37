"""RagClient: sends questions to a running server and reads its stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import httpx

from ragcache.errors import RagCacheError

DEFAULT_URL = "http://127.0.0.1:8000"


class ServerError(RagCacheError):
    """The server could not be reached, or refused the request."""


class RagClient:
    """A connection to one server, which is closed by `close` or at the end of a `with` statement.

    Every method raises ServerError if the server cannot be reached or refuses; the message is the server's.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout_seconds: float = 600.0) -> None:
        """`url` is http://HOST:PORT. `timeout_seconds` is the longest silence of the server. Raises ServerError for a
        URL that cannot be used."""
        self.url = url.rstrip("/")
        timeout = httpx.Timeout(timeout_seconds, connect=5.0)
        try:
            self._http = httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)
        except httpx.InvalidURL as error:
            raise ServerError(f"{url!r} is not the address of a server: {error}; write http://HOST:PORT") from error

    def stream(self, question: str, **options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the events of an answer as pairs of name and data: `documents`, `delta` by `delta`, and last `done`.

        The data are the bodies of the HTTP API. `options` are fields of `POST /v1/query` besides the question, such as
        `top_k`, `max_tokens` and `temperature`; for None the server's default holds.
        """
        body = {"question": question, "stream": True, **{k: v for k, v in options.items() if v is not None}}
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
            raise self._no_answer(error) from error
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
            raise self._no_answer(error) from error
        if response.status_code != 200:
            raise ServerError(_message(response))
        return response.json()

    def _no_answer(self, error: httpx.HTTPError) -> ServerError:
        return ServerError(f"no answer from {self.url}: {error}; is `ragcache serve` running there?")

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
