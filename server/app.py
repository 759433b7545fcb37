"""The HTTP API: routes over a RagService, and nothing that decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import asdict, fields

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from ragcache.service.answer import Answer, Delta, Retrieved, ServiceEvent
from ragcache.service.health import Health
from ragcache.service.service import RagService
from server import errors
from server.body_limit import BodyLimit
from server.metrics import Metrics
from server.schemas import (
    AnswerBody,
    CacheBody,
    ClearedBody,
    ComponentBody,
    ErrorBody,
    ErrorDetail,
    IntegrityBody,
    MovesBody,
    OthersBody,
    QueryBody,
    ReadyBody,
    RetrievedBody,
    TierBody,
    openapi_errors,
)

MAX_BODY_BYTES = 1 << 20


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


def create_app(service: RagService) -> FastAPI:
    """The API of one service, which the caller starts and closes."""
    app = FastAPI(title="ragcache", description="RAG with a knowledge tree of KV", version="1")
    app.add_middleware(BodyLimit, limit=MAX_BODY_BYTES)
    errors.install(app)
    metrics = Metrics(service)
    app.state.draining = False

    @app.post("/v1/query", response_model=AnswerBody, responses=openapi_errors(400, 413, 415, 422, 429, 500, 503, 504))
    async def query(request: Request, body: QueryBody) -> Response:
        """Answers a question from the documents nearest to it."""
        if app.state.draining:
            return _unavailable("the server is shutting down")
        events = _while_connected(request, service.ask(body.query()))
        try:
            # the documents come first: until then, an error can still set the status
            retrieved = await anext(events)
            assert isinstance(retrieved, Retrieved)
            if body.stream:
                return StreamingResponse(_sse(retrieved, events, metrics), media_type="text/event-stream")
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, Answer):
                        metrics.observe(event)
                        return Response(AnswerBody.of(event).model_dump_json(), media_type="application/json")
        except ClientGone:
            return Response(status_code=499)  # as nginx has it in its log; no client reads it
        raise RuntimeError("the service ended without an answer")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Says that the process runs, whether or not it can answer questions."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=ReadyBody, responses=openapi_errors(503))
    async def readyz() -> Response:
        """Whether questions are answered: "ready", or "degraded" where some fail or take longer, with the reasons."""
        if app.state.draining:
            return _unavailable("the server is shutting down")
        health = service.health
        troubles = _troubles(health)
        if health.state == "failed":
            return _unavailable("; ".join(f"the {name} failed: {body.message}" for name, body in troubles.items()))
        body = ReadyBody(status="degraded" if troubles else "ready", components=troubles or None)
        return Response(body.model_dump_json(exclude_none=True), media_type="application/json")

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Counters and latencies for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/cache")
    async def cache() -> CacheBody:
        """What the knowledge tree holds on each tier, and totals since the start."""
        return _cache_body(service)

    @app.delete("/v1/cache")
    async def clear() -> ClearedBody:
        """Drops all KV that no running request holds."""
        nodes, size = await service.clear()
        return ClearedBody(dropped_nodes=nodes, dropped_bytes=size, held_bytes=service.cache.balance().held)

    return app


def _cache_body(service: RagService) -> CacheBody:
    report, stats = service.cache.report(), service.stats
    tiers = {
        tier.name: TierBody(
            nodes=tier.nodes,
            bytes=asdict(tier.balance),
            # not asdict, which before Python 3.12 makes a Counter of pairs from a Counter
            **{field.name: getattr(tier.counts, field.name) for field in fields(tier.counts)},
        )
        for tier in report.tiers
    }
    return CacheBody(
        nodes=report.nodes,
        tiers=tiers,
        moves={name: MovesBody(**asdict(counts)) for name, counts in report.moves.items()},
        moving=report.moving,
        unwritten=report.unwritten,
        integrity=IntegrityBody(audits=stats.audits + report.audits, failed=stats.failed_audits + report.failed_audits),
        others=OthersBody(**asdict(report.others)),
    )


def _troubles(health: Health) -> dict[str, ComponentBody]:
    """The components that do not work, by name."""
    now = asyncio.get_running_loop().time()
    return {
        name: ComponentBody(
            state=condition.state,
            seconds=round(now - condition.since, 3),
            failures=condition.failures,
            message=condition.message,
        )
        for name, condition in health.conditions().items()
        if condition.since is not None
    }


def _unavailable(message: str) -> Response:
    return errors.respond(503, ErrorBody(error=ErrorDetail(type="unavailable", message=message)))


async def _sse(
    retrieved: Retrieved, events: AsyncGenerator[ServiceEvent, None], metrics: Metrics
) -> AsyncGenerator[bytes, None]:
    """Server-sent events: `documents`, then `delta` for each piece of text, then `done` or `error`."""
    try:
        yield _event("documents", RetrievedBody.of(retrieved))
        async for event in events:
            if isinstance(event, Delta):
                yield _event("delta", _DeltaBody(text=event.text))
            elif isinstance(event, Answer):
                metrics.observe(event)
                yield _event("done", AnswerBody.of(event))
    except ClientGone:
        return
    except Exception as error:  # the status is sent already, so the stream itself has to report it
        yield _event("error", errors.describe(error)[1])
    finally:
        await events.aclose()


class _DeltaBody(BaseModel):
    text: str


def _event(name: str, body: BaseModel) -> bytes:
    return f"event: {name}\ndata: {body.model_dump_json(exclude_none=name == 'error')}\n\n".encode()


async def _while_connected(
    request: Request, events: AsyncGenerator[ServiceEvent, None]
) -> AsyncGenerator[ServiceEvent, None]:
    """Yields the events. Once the client is gone, closes them, which stops the work, and raises ClientGone."""
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        while True:
            step = asyncio.ensure_future(anext(events, None))
            try:
                await asyncio.wait({step, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not step.done():
                    step.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await step
            if step.cancelled() or gone.done():
                raise ClientGone
            event = step.result()
            if event is None:
                return
            yield event
    finally:
        gone.cancel()
        await events.aclose()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
