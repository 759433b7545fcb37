"""RemoteAsker: sends the requests of a workload to a running server."""

from __future__ import annotations

import asyncio
import random
from types import TracebackType
from typing import Any

import httpx

from ragcache.errors import BadQuery, DeadlineExceeded, Overloaded
from ragcache.replay.replay import Served
from ragcache.replay.workload import TimedRequest
from server.client import ServerError, no_answer, server_url

_WORDS = (
    "what", "which", "where", "when", "how", "does", "is", "the", "of", "in", "to", "for", "file", "list", "number",
    "value", "time", "part", "name", "kind",
)  # fmt: skip


class RemoteAsker:
    """An Asker over HTTP with any number of requests at a time; to be used in an `async with` statement.

    The server finds documents of its own, as many as the request has. A question that is known by its length alone is
    made up of that many words. Times are the server's. Raises ServerError if the server cannot be reached.
    """

    def __init__(self, url: str, timeout_ms: int | None = None, *, timeout_seconds: float = 600.0) -> None:
        self._url = server_url(url)
        self._timeout_ms = timeout_ms
        self._http = httpx.AsyncClient(
            base_url=self._url,
            timeout=httpx.Timeout(timeout_seconds, connect=5.0),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    async def ask(self, number: int, request: TimedRequest) -> Served:
        query = {
            "question": request.question if isinstance(request.question, str) else _words(number, request.question),
            "max_tokens": request.output,
            "top_k": len(request.documents) or None,
            "timeout_ms": self._timeout_ms,
        }
        try:
            response = await self._http.post("/v1/query", json={k: v for k, v in query.items() if v is not None})
            body = response.json()
            if response.status_code != 200:
                _raise(response.status_code, body["error"]["message"])
            return _served(body)
        except httpx.HTTPError as error:
            raise no_answer(self._url, error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(f"{self._url} is not a ragcache server, or not of this version") from error

    async def __aenter__(self) -> RemoteAsker:
        try:
            response = await self._http.get("/readyz")
        except httpx.HTTPError as error:
            await self._http.aclose()
            raise no_answer(self._url, error) from error
        if response.status_code != 200:
            await self._http.aclose()
            raise ServerError(f"{self._url}/readyz answers {response.status_code}: the server is not ready")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._http.aclose())


def _raise(status: int, message: str) -> None:
    if status == 429:
        raise Overloaded(message)
    if status == 504:
        raise DeadlineExceeded(message)
    if status in (400, 413, 422):
        raise BadQuery(message, field="question")
    raise ServerError(f"{message} (HTTP {status})")


def _served(answer: dict[str, Any]) -> Served:
    timing, usage, tiers = answer["timing"], answer["usage"], answer["usage"]["cached_tokens"]
    return Served(
        ttft=timing["ttft_ms"] / 1000,
        total=timing["total_ms"] / 1000,
        search=timing["retrieval_ms"] / 1000,
        search_overlap=timing["search_overlap_ms"] / 1000,
        queue=timing["queue_ms"] / 1000,
        prefill=timing["prefill_ms"] / 1000,
        prompt_tokens=usage["prompt_tokens"],
        computed_tokens=usage["computed_tokens"],
        device_tokens=tiers["device"],
        host_tokens=tiers["host"],
        disk_tokens=tiers["disk"],
        output_tokens=usage["completion_tokens"],
        documents=len(answer["documents"]),
        cached_documents=None,
        speculations=answer["speculation"]["started"],
        speculation_used=answer["speculation"]["used"],
        wasted_tokens=answer["speculation"]["wasted_tokens"],
    )


def _words(number: int, length: int) -> str:
    return " ".join(random.Random(number).choices(_WORDS, k=length))
