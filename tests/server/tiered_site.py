"""What the tests of a server with three tiers ask of it, and how they wait for what it does behind the answers."""

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from eval.props.uncached import Uncached
from tests.server.conftest import until


def ask(client: httpx.Client, question: str, uncached: dict[str, Uncached] | None = None) -> dict[str, Any]:
    """The usage of a right answer, whose tokens by source add up."""
    response = client.post("/v1/query", json={"question": question})
    assert response.status_code == 200, response.text
    body = response.json()
    if uncached is not None:
        assert uncached[question].compare(body) in ("equal", "tie"), (body["answer"], uncached[question])
    usage = body["usage"]
    assert usage["computed_tokens"] + sum(usage["cached_tokens"].values()) == usage["prompt_tokens"]
    assert usage["computed_tokens"] > 0
    return dict(usage)


def cache_of(client: httpx.Client) -> dict[str, Any]:
    response = client.get("/v1/cache")
    assert response.status_code == 200, response.text
    return dict(response.json())


def tier_of(client: httpx.Client, name: str) -> dict[str, Any]:
    return dict(cache_of(client)["tiers"][name])


def settled(client: httpx.Client) -> dict[str, Any]:
    """The cache once nothing moves and nothing waits to be written."""

    def done() -> bool:
        body = cache_of(client)
        return not body["moving"] and not body["unwritten"] and not body["tiers"]["device"]["bytes"]["held"]

    until(done)
    return cache_of(client)


def metrics_of(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """By name, and labels' values in the order of their names."""
    text = client.get("/metrics").text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
