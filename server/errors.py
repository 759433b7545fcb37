"""Errors over HTTP: each has one status and one body, never a traceback."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ragcache.errors import BadQuery, DeadlineExceeded, EngineError, Overloaded, QuestionTooLong, RagCacheError
from retrieval.errors import IndexDamaged, RetrievalError
from server.request_log import note
from server.schemas import ErrorBody

_STATUS: list[tuple[type[Exception], int, str]] = [
    (QuestionTooLong, 413, "question_too_long"),
    (BadQuery, 422, "invalid_request"),
    (Overloaded, 429, "overloaded"),
    (DeadlineExceeded, 504, "timeout"),
    (EngineError, 500, "engine_failed"),
    (IndexDamaged, 503, "index_damaged"),
    (RetrievalError, 500, "retrieval_failed"),
    (RagCacheError, 500, "internal_error"),
]
RETRY_AFTER_SECONDS = 1
LONGEST_QUOTE = 100  # characters that an answer repeats of what a client has sent


class RefusedRequest(HTTPException):
    """A request that is wrong before its fields are looked at, with the error that it is answered with."""

    def __init__(
        self, status: int, kind: str, message: str, *, limit: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.body = ErrorBody.of(kind, message, limit=limit)


def describe(error: Exception) -> tuple[int, ErrorBody]:
    """Status and body for the error that a request ended with."""
    for kind, status, name in _STATUS:
        if isinstance(error, kind):
            field, limit = getattr(error, "field", None), getattr(error, "limit", None)
            return status, ErrorBody.of(name, str(error), field=field, limit=limit)
    return 500, ErrorBody.of("internal_error", f"{type(error).__name__} in the server; its log says more")


def respond(status: int, body: ErrorBody) -> Response:
    note(error=body.error.type)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status in (429, 503) else None
    return Response(body.json_bytes(), status, headers, "application/json")


def _of_router(request: Request, error: HTTPException) -> ErrorBody:
    """What the router, or a library, says in its status alone."""
    path, message = shortened(request.url.path), str(error.detail)
    if error.status_code == 404:
        message = f"there is nothing at {path}; / lists what there is"
    if error.status_code == 405:
        message = f"{path} has no method {shortened(request.method)}; its header Allow names those that it has"
    return ErrorBody.of("http_error", message)


def shortened(text: str) -> str:
    """What a client has sent, cut to what is worth being repeated."""
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…"


def install(app: FastAPI) -> None:
    """Makes the app answer every error with an ErrorBody."""

    async def known(_: Request, error: Exception) -> Response:
        return respond(*describe(error))

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if isinstance(error.body, bytes) and error.body:  # what is sent as JSON has been parsed
            message = "send the body as JSON, with the header Content-Type: application/json"
            return respond(415, ErrorBody.of("wrong_content_type", message))
        first = error.errors()[0]
        field = shortened(".".join(str(part) for part in first["loc"][1:])) or None
        message = f"{field or 'body'}: {first['msg']}"
        if first["type"] == "extra_forbidden":
            message = f"unknown field {field!r}"
        return respond(422, ErrorBody.of("invalid_request", message, field=field))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        body = error.body if isinstance(error, RefusedRequest) else _of_router(request, error)
        response = respond(error.status_code, body)
        response.headers.update(error.headers or {})
        return response

    for kind in (RagCacheError, RetrievalError, Exception):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
