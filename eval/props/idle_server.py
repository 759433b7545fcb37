"""IdleServer: a server once no request is left. All memory must be back, its books in order, and nothing failed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

REST_SECONDS = 60.0  # for moves to end and the books to be recounted
RECOUNT_SECONDS = 5.0  # an idle server recounts its books sooner


@dataclass(frozen=True, slots=True)
class IdleServer:
    """`cache` is the body of `GET /v1/cache`, `outcomes` counts requests by how they ended, `problems` says what is
    wrong."""

    cache: dict[str, Any]
    outcomes: dict[str, int]
    problems: tuple[str, ...]


def come_to_rest(url: str) -> IdleServer:
    """Waits until the server is idle and has recounted its books since, then checks it.

    Raises httpx.HTTPError if the server is gone.
    """
    with httpx.Client(base_url=url, timeout=REST_SECONDS, trust_env=False) as http:
        begin, before = time.monotonic(), _cache(http)["integrity"]["audits"]
        while True:
            cache, metrics = _cache(http), _metrics(http)
            idle = not (metrics["ragcache_requests_running",] or metrics["ragcache_requests_waiting",])
            idle = idle and not cache["moving"] and not cache["unwritten"]
            audits, waited = cache["integrity"]["audits"], time.monotonic() - begin
            # the last recount may have ended before the first look
            audited = audits > before or (audits > 0 and waited > RECOUNT_SECONDS)
            if (idle and audited) or waited > REST_SECONDS:
                break
            time.sleep(0.1)
        ready = http.get("/readyz").json()
    problems = []
    if not idle:
        problems.append(f"not idle after {REST_SECONDS:g} s: {cache['moving']} moves, {cache['unwritten']} unwritten")
    if not audited:
        problems.append(f"the books were not recounted within {REST_SECONDS:g} s")
    if failed := cache["integrity"]["failed"]:
        problems.append(f"the books did not balance, {failed} times")
    for name, tier in cache["tiers"].items():
        size = tier["bytes"]
        if size["free"] + size["cached"] + size["held"] != size["total"] or min(size.values()) < 0:
            problems.append(f"the bytes of the {name} do not add up: {size}")
        if size["held"]:
            problems.append(f"{size['held']} bytes of the {name} are held though no request is left")
        if tier["failures"].keys() - {"full", "busy"}:
            problems.append(f"moves failed on the {name}: {tier['failures']}")
    outcomes = {key[1]: int(value) for key, value in metrics.items() if key[0] == "ragcache_requests_total"}
    if outcomes["failed"]:
        problems.append(f"{outcomes['failed']} requests failed, says the server")
    if ready != {"status": "ready"}:
        problems.append(f"/readyz says {ready}")
    return IdleServer(cache, outcomes, tuple(problems))


def cache_state(url: str) -> dict[str, Any]:
    """The body of `GET /v1/cache`. Raises httpx.HTTPError if the server does not answer."""
    with httpx.Client(base_url=url, timeout=REST_SECONDS, trust_env=False) as http:
        return _cache(http)


def _cache(http: httpx.Client) -> dict[str, Any]:
    return dict(http.get("/v1/cache").raise_for_status().json())


def _metrics(http: httpx.Client) -> dict[tuple[str, ...], float]:
    """Samples of `GET /metrics`, by name and the values of their labels (in the order of the labels' names)."""
    text = http.get("/metrics").raise_for_status().text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
