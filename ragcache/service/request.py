"""Request: a query that was checked, with the service's defaults in place of what it left open."""

from __future__ import annotations

import numbers
import secrets
from dataclasses import dataclass
from typing import Any

from ragcache.engine.protocol import Sampling
from ragcache.errors import BadQuery
from ragcache.reuse.arrangement import ORDERS
from ragcache.service.answer import Query
from ragcache.service.limits import Limits

MAX_TEMPERATURE = 5.0
MAX_TIMEOUT_MS = 2**31 - 1  # 24 days; as much as timers of clients mostly hold
MAX_STOPS = 8
MAX_STOP_CHARACTERS = 200
MAX_TENANT_CHARACTERS = 200
_WHOLE = ("top_k", "max_tokens", "timeout_ms", "seed")
_REAL = ("temperature", "top_p")


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be answered, and how. `seconds` from its arrival it expires; None: never."""

    question: str
    top_k: int
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    tenant: str
    order: str
    seconds: float | None

    @classmethod
    def of(cls, query: Query, limits: Limits, corpus_size: int) -> Request:
        """The request that `query` makes. Raises BadQuery, naming the field, for a value out of its bounds or of
        another type than Query says."""
        _check_types(query)
        return cls(
            question=query.question,
            top_k=_top_k(query, limits, corpus_size),
            max_tokens=_max_tokens(query, limits),
            sampling=_sampling(query),
            stop=_stop(query),
            tenant=_tenant(query),
            order=_order(query, limits),
            seconds=_seconds(query),
        )


def _check_types(query: Query) -> None:
    for field in ("question", "tenant"):
        if not isinstance(value := getattr(query, field), str):
            raise BadQuery(f"{field} must be a text, not of type {type(value).__name__}", field=field)
    for fields, kind, words in ((_WHOLE, numbers.Integral, "a whole number"), (_REAL, numbers.Real, "a number")):
        for field in fields:
            value = getattr(query, field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                raise BadQuery(f"{field} must be {words}, not of type {type(value).__name__}", field=field)
    if query.order is not None and not isinstance(query.order, str):
        raise BadQuery(f"order must be a text, not of type {type(query.order).__name__}", field="order")
    if not isinstance(query.stop, tuple) or not all(isinstance(text, str) for text in query.stop):
        raise BadQuery("stop must be a tuple of texts", field="stop")


def _top_k(query: Query, limits: Limits, corpus_size: int) -> int:
    # the operator's default may exceed a tiny corpus
    top_k = min(limits.top_k, corpus_size) if query.top_k is None else query.top_k
    if not 1 <= top_k <= corpus_size:
        raise BadQuery(
            f"top_k is {_shown(top_k)}; the corpus has {corpus_size} documents", field="top_k", limit=corpus_size
        )
    return top_k


def _max_tokens(query: Query, limits: Limits) -> int:
    limit = limits.max_tokens
    max_tokens = limit if query.max_tokens is None else query.max_tokens
    if not 1 <= max_tokens <= limit:
        raise BadQuery(f"max_tokens is {_shown(max_tokens)}; it may be 1 to {limit}", field="max_tokens", limit=limit)
    return max_tokens


def _sampling(query: Query) -> Sampling:
    temperature = 0.0 if query.temperature is None else query.temperature
    top_p = 1.0 if query.top_p is None else query.top_p
    if not 0.0 <= temperature <= MAX_TEMPERATURE:  # neither is NaN
        raise BadQuery(f"temperature is {_shown(temperature)}; it may be 0 to {MAX_TEMPERATURE}", field="temperature")
    if not 0.0 < top_p <= 1.0:
        raise BadQuery(f"top_p is {_shown(top_p)}; it may be above 0 and up to 1", field="top_p")
    if query.seed is not None and not 0 <= query.seed < 2**63:
        raise BadQuery(f"seed is {_shown(query.seed)}; it may be 0 to 2^63 - 1", field="seed")
    # a seed of the answer's own, so that an answer that is interrupted can go on as it would have
    seed = secrets.randbits(63) if query.seed is None and temperature else query.seed
    return Sampling(float(temperature), seed, float(top_p))


def _stop(query: Query) -> tuple[str, ...]:
    if len(query.stop) > MAX_STOPS or not all(1 <= len(text) <= MAX_STOP_CHARACTERS for text in query.stop):
        raise BadQuery(f"stop may be up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters", field="stop")
    return query.stop


def _tenant(query: Query) -> str:
    if not 1 <= len(query.tenant) <= MAX_TENANT_CHARACTERS:
        raise BadQuery(
            f"tenant has {len(query.tenant)} characters; it may have 1 to {MAX_TENANT_CHARACTERS}",
            field="tenant",
            limit=MAX_TENANT_CHARACTERS,
        )
    try:
        query.tenant.encode()
    except UnicodeEncodeError as error:
        raise BadQuery("tenant holds half of a surrogate pair, which is not text", field="tenant") from error
    return query.tenant


def _order(query: Query, limits: Limits) -> str:
    order = limits.order if query.order is None else query.order
    if order not in ORDERS:
        raise BadQuery(f"order is one of {', '.join(ORDERS)}, not {order[:40]!r}", field="order")
    return order


def _seconds(query: Query) -> float | None:
    if query.timeout_ms is None:
        return None
    if not 1 <= query.timeout_ms <= MAX_TIMEOUT_MS:
        raise BadQuery(
            f"timeout_ms is {_shown(query.timeout_ms)}; it may be 1 to {MAX_TIMEOUT_MS}",
            field="timeout_ms",
            limit=MAX_TIMEOUT_MS,
        )
    return query.timeout_ms / 1000


def _shown(number: Any) -> str:
    """A number for a message, in few characters."""
    try:
        text = str(number)
    except ValueError:  # of more digits than Python writes
        return "out of range"
    return text if len(text) <= 40 else f"{text[:40]}…"
