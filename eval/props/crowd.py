"""Crowd: clients that ask one server at once, and how each of their requests ended."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import httpx

PATIENCE_SECONDS = 300.0  # without a byte from the server

Outcome = Literal["answered", "expired", "hung up", "refused", "failed"]
# by the type of an error's body
_OUTCOMES: dict[str, Outcome] = {"timeout": "expired", "overloaded": "refused"}


@dataclass(frozen=True, slots=True)
class Request:
    """A body for `POST /v1/query`. It is sent `send_after` seconds after the crowd's start, or as soon after as a
    client is free. The client hangs up after `hang_up` seconds."""

    body: dict[str, Any]
    send_after: float = 0.0
    hang_up: float | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """How a request ended. `answer` is the body if it was answered, `problem` says what was wrong if it failed."""

    request: Request
    outcome: Outcome
    answer: dict[str, Any] | None = None
    problem: str = ""


class Crowd:
    """Threads that send the requests in order, each waiting for its answer. `on_visit` is called by one at a time."""

    def __init__(self, url: str, requests: Iterator[Request], clients: int, on_visit: Callable[[Visit], None]) -> None:
        self._url = url
        self._requests = requests
        self._on_visit = on_visit
        self._taking, self._reporting = threading.Lock(), threading.Lock()
        self._leaving = threading.Event()
        self._begin = time.monotonic()
        # daemons: an interrupted evaluation does not wait for answers
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """No further request is sent."""
        self._leaving.set()

    def join(self) -> None:
        """Waits until the last request sent has ended."""
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False) as http:
            while not self._leaving.is_set():
                with self._taking:
                    request = next(self._requests, None)
                if request is None or self._leaving.wait(max(0.0, self._begin + request.send_after - time.monotonic())):
                    return
                visit = ask(http, request)
                with self._reporting:
                    self._on_visit(visit)


def ask(http: httpx.Client, request: Request) -> Visit:
    """Sends one request and reads what comes, as a whole or as a stream. Hanging up closes the connection."""
    patience = PATIENCE_SECONDS if request.hang_up is None else request.hang_up
    end = time.monotonic() + patience
    lines = []
    try:
        with http.stream("POST", "/v1/query", json=request.body, timeout=patience) as response:
            for line in response.iter_lines():
                if request.hang_up is not None and time.monotonic() > end:
                    return Visit(request, "hung up")
                lines.append(line)
            status = response.status_code
    except httpx.TimeoutException as error:
        if request.hang_up is not None:
            return Visit(request, "hung up")
        return Visit(request, "failed", problem=f"nothing for {patience:g} s: {error}")
    except httpx.HTTPError as error:
        return Visit(request, "failed", problem=f"{type(error).__name__}: {error}")
    try:
        return _read(request, status, lines)
    except (ValueError, KeyError, TypeError) as error:
        return Visit(request, "failed", problem=f"the body is not an answer ({error!r}): HTTP {status} {lines[:3]}")


def _read(request: Request, status: int, lines: list[str]) -> Visit:
    if status == 200 and request.body.get("stream"):
        names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        last, body = names[-1], events[-1]
        if last == "done":
            pieces = "".join(event["text"] for name, event in zip(names, events, strict=True) if name == "delta")
            if pieces != body["answer"]:
                return Visit(request, "failed", problem=f"streamed {pieces!r}, and then {body['answer']!r}")
            return Visit(request, "answered", body)
    else:
        body = json.loads("\n".join(lines))
        if status == 200:
            return Visit(request, "answered", body)
    error = body["error"]
    outcome = _OUTCOMES.get(error["type"], "failed")
    return Visit(request, outcome, problem=f"HTTP {status} {error['type']}: {error['message']}")
