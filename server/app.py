"""The HTTP API: routes over a RagService, and nothing that decides."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict, fields
from importlib import metadata

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from ragcache.service.answer import Answer
from ragcache.service.health import Health
from ragcache.service.service import RagService
from server import errors
from server.body_limit import BodyLimit
from server.event_stream import PING_SECONDS, ClientGone, EventStream, while_connected
from server.farewell import SHUTTING_DOWN
from server.methods import Methods
from server.metrics import Metrics
from server.request_body import MAX_BODY_BYTES, BodyRoute
from server.request_log import CLIENT_GONE, note
from server.schemas import (
    AnswerBody,
    CacheBody,
    ClearedBody,
    ComponentBody,
    ErrorBody,
    IntegrityBody,
    MovesBody,
    OthersBody,
    QueryBody,
    ReadyBody,
    RootBody,
    TierBody,
    openapi_errors,
)


def create_app(service: RagService, *, ping_seconds: float = PING_SECONDS) -> FastAPI:
    """The API of one service, which the caller starts and closes.

    While a stream has nothing to send, a comment follows each `ping_seconds`.
    """
    app = _empty_app()
    metrics = Metrics(service)
    app.state.draining = False

    @app.post("/v1/query", response_model=AnswerBody, responses=openapi_errors(400, 413, 415, 422, 429, 500, 503, 504))
    async def query(request: Request, body: QueryBody) -> Response:
        """Answers a question from the documents nearest to it."""
        if app.state.draining:
            return _unavailable(SHUTTING_DOWN)
        events = while_connected(request, service.ask(body.query()), ping_seconds)
        try:
            # until something is sent, an error can still set the status
            first = await anext(events)
            if body.stream:
                return EventStream(first, events, metrics)
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, Answer):
                        metrics.observe(event)
                        note(answer=event)
                        return Response(AnswerBody.of(event).model_dump_json(), media_type="application/json")
        except ClientGone:
            note(error=CLIENT_GONE)
            return Response(status_code=499)  # as nginx has it in its log; no client reads it
        raise RuntimeError("the service ended without an answer")

    @app.get("/")
    async def root() -> RootBody:
        """Says what this server is and what it answers."""
        return RootBody(name="ragcache", version=_version(), docs="/docs", routes=_routes(app))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Says that the process runs, whether or not it can answer questions."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=ReadyBody, responses=openapi_errors(503))
    async def readyz() -> Response:
        """Whether questions are answered: "ready", or "degraded" where some fail or take longer, with the reasons."""
        if app.state.draining:
            return _unavailable(SHUTTING_DOWN)
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


def _empty_app() -> FastAPI:
    """An app without routes but that of its page /docs, and what holds for all of them."""
    app = FastAPIOffline(
        title="ragcache",
        description="RAG with a knowledge tree of KV",
        version="1",
        redoc_url=None,
        redirect_slashes=False,  # there is one name for a route, and 404 for others
        static_url="/docs/assets",  # of the page /docs, which needs no other server
    )
    app.router.route_class = BodyRoute
    app.add_middleware(BodyLimit, limit=MAX_BODY_BYTES)
    app.add_middleware(Methods, routes=app.routes)
    errors.install(app)
    return app


def _version() -> str:
    """The installed release."""
    try:
        return metadata.version("ragcache")
    except metadata.PackageNotFoundError:  # run from a folder of sources
        return "unknown"


def _routes(app: FastAPI) -> dict[str, str]:
    """What each route does, in the first line of its docstring, by method and path."""
    return {
        f"{method} {route.path}": route.description.split("\n", 1)[0]
        for route in app.routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in sorted(route.methods)
    }


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
    return errors.respond(503, ErrorBody.of("unavailable", message))
