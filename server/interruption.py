"""Interruption: ends a request whose body does not come whole, by an error that the app answers like its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import RefusedRequest

_KEY = "interruption"  # in the scope's state, which all layers of the app share


def interrupt(scope: Mapping[str, Any], error: RefusedRequest) -> None:
    """Lets the app's next `receive` raise this error. The server has to wake one that waits."""
    scope["state"][_KEY] = error


class Interruptible:
    """ASGI middleware: `receive` raises the error that the request is interrupted with."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_unless_interrupted() -> Message:
            message = await receive()
            error: RefusedRequest | None = scope.get("state", {}).get(_KEY)
            if error is not None:
                raise error
            return message

        await self._app(scope, receive_unless_interrupted, send)
