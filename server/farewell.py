"""Farewell: what a request is told that still runs when a server's grace time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import respond
from server.event_stream import error_event
from server.schemas import ErrorBody

SHUTTING_DOWN = "the server is shutting down"
_TIME_IS_OVER = ErrorBody.of("unavailable", f"{SHUTTING_DOWN}, and the time for running requests is over; ask again")


class Farewell:
    """ASGI: a request that is cancelled while the app is draining is told why.

    It is answered with 503, or ends its stream with an `error` event where that has begun.
    """

    def __init__(self, app: ASGIApp, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streaming = begun = complete = False

        async def watched(message: Message) -> None:
            nonlocal streaming, begun, complete
            if message["type"] == "http.response.start":
                begun = True
                streaming = any(name == b"content-type" and value.startswith(b"text/event-stream")
                                for name, value in message["headers"])  # fmt: skip
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if not self._is_draining():
                raise
            if not begun:
                await respond(503, _TIME_IS_OVER)(scope, receive, send)
            elif streaming and not complete:
                await send({"type": "http.response.body", "body": error_event(_TIME_IS_OVER)})
