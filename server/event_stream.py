"""EventStream: an answer as server-sent events, with a comment while nothing else is sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from ragcache.service.answer import Answer, Delta, Retrieved, ServiceEvent
from server import errors
from server.metrics import Metrics
from server.request_log import note
from server.schemas import AnswerBody, DeltaBody, ErrorBody, RetrievedBody

# proxies end a connection on which nothing came for 60 s or more
PING_SECONDS = 10.0
PING = b": ping\n\n"
HEADERS = {
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would keep the tokens and send them in lumps
}


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


class EventStream(StreamingResponse):
    """Server-sent events: `documents`, then `delta` for each piece of text, then `done` or `error`; `: ping` between.

    Its head is sent with the first of them, so whoever makes it waits for that: until then an error can still set the
    status.
    """

    def __init__(
        self, first: ServiceEvent | None, events: AsyncGenerator[ServiceEvent | None, None], metrics: Metrics
    ) -> None:
        """`first` has been taken from `events`, of which None stands for a comment. `metrics` observes the answer."""
        super().__init__(_sent(first, events, metrics), headers=HEADERS, media_type="text/event-stream")


def error_event(body: ErrorBody) -> bytes:
    """The event that ends a stream whose status is sent already."""
    note(error=body.error.type)
    return _event("error", body)


async def while_connected(
    request: Request, events: AsyncGenerator[ServiceEvent, None], ping_seconds: float = PING_SECONDS
) -> AsyncGenerator[ServiceEvent | None, None]:
    """Yields the events, and None each time that none has come for `ping_seconds`.

    Once the client is gone, closes the events, which stops the work, and raises ClientGone.
    """
    gone = asyncio.ensure_future(_disconnected(request))
    step: asyncio.Future[ServiceEvent | None] | None = None
    try:
        while True:
            step = step or asyncio.ensure_future(anext(events, None))
            waits: set[asyncio.Future[Any]] = {step, gone}
            await asyncio.wait(waits, timeout=ping_seconds, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientGone
            if not step.done():
                yield None
                continue
            event, step = step.result(), None
            if event is None:
                return
            yield event
    finally:
        gone.cancel()
        if step is not None:
            step.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await step
        await events.aclose()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _sent(
    first: ServiceEvent | None, events: AsyncGenerator[ServiceEvent | None, None], metrics: Metrics
) -> AsyncGenerator[bytes, None]:
    try:
        yield _written(first, metrics)
        async for event in events:
            yield _written(event, metrics)
    except ClientGone:
        return
    except Exception as error:  # the status is sent already, so the stream itself has to report it
        yield error_event(errors.describe(error)[1])
    finally:
        await events.aclose()


def _written(event: ServiceEvent | None, metrics: Metrics) -> bytes:
    match event:
        case None:
            return PING
        case Retrieved():
            return _event("documents", RetrievedBody.of(event))
        case Delta():
            return _event("delta", DeltaBody(text=event.text))
        case Answer():
            metrics.observe(event)
            note(answer=event)
            return _event("done", AnswerBody.of(event))


def _event(name: str, body: BaseModel) -> bytes:
    return f"event: {name}\ndata: {body.model_dump_json(exclude_none=name == 'error')}\n\n".encode()
