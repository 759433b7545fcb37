"""Methods: HEAD and OPTIONS for every route of an app, the methods that a path allows, and paths of whole URLs."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ORDER = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Methods:
    """ASGI middleware: HEAD is answered as GET without a body, OPTIONS with the methods of the path."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        """`routes` are those of the app; some may be added later."""
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _with_path(scope)
        method, allowed = scope["method"], self._allowed(scope)
        if method == "OPTIONS" and allowed:
            headers = [(b"allow", ", ".join(allowed).encode()), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body"})
            return

        async def with_all_methods(message: Message) -> None:
            # the router names those of the first route of the path alone
            if message["type"] == "http.response.start" and message["status"] == 405 and allowed:
                headers = [(name, value) for name, value in message["headers"] if name != b"allow"]
                message = {**message, "headers": [*headers, (b"allow", ", ".join(allowed).encode())]}
            if message["type"] == "http.response.body" and method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        inner = {**scope, "method": "GET"} if method == "HEAD" else scope
        await self._app(inner, receive, with_all_methods)

    def _allowed(self, scope: Scope) -> list[str]:
        """The methods of the scope's path, of all paths for `*`; none if there is no such path."""
        methods: set[str] = set()
        for route in self._routes:
            if scope["path"] == "*" or route.matches(scope)[0] is not Match.NONE:
                methods |= getattr(route, "methods", None) or {"GET"}  # a folder of files has no list of its own
        if "GET" in methods:
            methods.add("HEAD")
        return [name for name in ORDER if name in methods | {"OPTIONS"}] if methods else []


def _with_path(scope: Scope) -> Scope:
    """The scope; of a request for a whole URL, as proxies are sent it (RFC 9112, 3.2.2), with the path of that."""
    raw: bytes = scope.get("raw_path") or b""
    if not raw.lower().startswith((b"http://", b"https://")):
        return scope
    path = b"/" + raw.split(b"://", 1)[1].partition(b"/")[2]
    return {**scope, "raw_path": path, "path": unquote(path.decode("ascii"))}
