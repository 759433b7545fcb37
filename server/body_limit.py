"""BodyLimit: refuses a request body that is larger than any valid one before it fills the memory."""

from __future__ import annotations

import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import respond
from server.schemas import ErrorBody


class _TooLarge(Exception):
    pass


class BodyLimit:
    """ASGI middleware: answers 413 to bodies of more than `limit` bytes, with or without a Content-Length."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._limit:
            await self._refuse(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise _TooLarge
            return message

        async def unless_too_large(message: Message) -> None:
            if received <= self._limit:
                await send(message)

        # raised while the body is read, so nothing has been sent yet; the app may turn it into an answer of its own
        with contextlib.suppress(_TooLarge):
            await self._app(scope, counted, unless_too_large)
        if received > self._limit:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"the body is larger than {self._limit} bytes"
        await respond(413, ErrorBody.of("body_too_large", message, limit=self._limit))(scope, receive, send)
