"""Cors: lets scripts of pages from other origins ask, where the operator names these, and read every answer."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from server.errors import respond
from server.methods import ORDER
from server.schemas import ErrorBody

# what a browser's script may read of an answer besides its body
EXPOSED_HEADERS = ("Retry-After", "X-Request-Id")


class Cors(CORSMiddleware):
    """ASGI middleware: Starlette's, with an ErrorBody for a preflight that is refused. It stands outside all that
    answers, errors included: a script cannot read the status of an answer without its headers."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app, allow_origins=origins, allow_methods=ORDER, allow_headers=["*"], expose_headers=EXPOSED_HEADERS
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        reason = bytes(response.body).decode()
        refusal = respond(400, ErrorBody.of("cors_refused", f"{reason}; the server's --cors-origin says who may ask"))
        for name, value in response.headers.items():
            refusal.headers.setdefault(name, value)
        return refusal


def headers_unseen(origins: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """Headers of an answer to a client whose own are not known: for all origins, or for the only one. Of several, an
    answer can name one alone."""
    if "*" not in origins and len(origins) != 1:
        return []
    origin = "*" if "*" in origins else origins[0]
    exposed = ", ".join(EXPOSED_HEADERS)
    return [
        (b"access-control-allow-origin", origin.encode()),
        (b"access-control-expose-headers", exposed.encode()),
        *([] if origin == "*" else [(b"vary", b"Origin")]),
    ]
