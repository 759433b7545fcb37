"""RequestLog: gives each request an id, and the log a line when it has ended."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragcache.console.log import fields, request_id
from ragcache.service.answer import Answer

HEADER = "X-Request-Id"
CLIENT_GONE = "client_gone"  # the error of a request whose client did not wait for its end
PROBES = ("/healthz", "/readyz", "/metrics")  # asked every few seconds: logged at `debug` while they succeed
LONGEST_PATH = 200  # characters that the log has of one
_VALID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@~-]{0,127}", re.ASCII)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Outcome:
    """What is known of a request's end besides its status."""

    answer: Answer | None = None
    error: str | None = None


_outcome: ContextVar[_Outcome | None] = ContextVar("outcome", default=None)


def note(*, answer: Answer | None = None, error: str | None = None) -> None:
    """Keeps for the line of the current request how it ended: by this answer, or by an error of this type."""
    outcome = _outcome.get()
    if outcome is not None:
        outcome.answer, outcome.error = answer or outcome.answer, error or outcome.error


def id_of(headers: Headers) -> str:
    """The request's own id if it has sent one that is 1 to 128 letters, digits or . _ : / + = @ ~ -, else a new one."""
    given = headers.getlist(HEADER)
    if len(given) == 1 and _VALID.fullmatch(given[0]):
        return given[0]
    return uuid.uuid4().hex


def note_unread(status: int, error: str) -> str:
    """Logs that a connection is refused before its request is known. Returns an id for this answer.

    At `debug`: such connections come from port scans and the like, and come in crowds.
    """
    its_id = uuid.uuid4().hex
    token = request_id.set(its_id)
    log.debug("refused", extra=fields(status=status, error=error))
    request_id.reset(token)
    return its_id


class RequestLog:
    """ASGI middleware, the outermost: lines that are logged while a request runs carry its id, and so does its answer.

    The line of a request has no word of its body: neither the question nor the documents nor the answer.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = self._clock()
        its_id, outcome = id_of(Headers(scope=scope)), _Outcome()
        its_token, outcome_token = request_id.set(its_id), _outcome.set(outcome)
        status, complete = 0, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = its_id
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            if not complete:
                raise
            log.exception("a request failed by an error of the server")  # its answer says 500
        finally:
            if not complete:
                outcome.error = outcome.error or CLIENT_GONE
            self._line(scope, status, outcome, (self._clock() - began) * 1000)
            _outcome.reset(outcome_token)
            request_id.reset(its_token)

    def _line(self, scope: Scope, status: int, outcome: _Outcome, milliseconds: float) -> None:
        quiet = scope["path"] in PROBES and 200 <= status < 300
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            extra=fields(
                method=scope["method"][:16],
                path=scope["path"][:LONGEST_PATH],
                status=status,
                error=outcome.error,
                **_of_answer(outcome.answer),
                total_ms=round(milliseconds, 3),
            ),
        )


def _of_answer(answer: Answer | None) -> dict[str, Any]:
    if answer is None:
        return {}
    usage = answer.usage
    cached = usage.cached_tokens
    return {
        "answer_id": answer.id,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": cached.device + cached.host + cached.disk,
        "computed_tokens": usage.computed_tokens,
        "completion_tokens": usage.completion_tokens,
        "ttft_ms": answer.timing.ttft_ms,
    }
