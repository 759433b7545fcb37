"""The cache is seen and emptied over HTTP, and the metrics add up to what the answers say."""

import json

import pytest

from tests.server.tiered_site import metrics_of


def test_the_cache_can_be_seen_and_emptied(site):
    assert site.http.get("/v1/cache").json()["nodes"] == 0
    usage = site.ask().json()["usage"]
    site.settled()
    body = site.http.get("/v1/cache").json()
    device = body["tiers"]["device"]
    assert body["nodes"] == device["nodes"] == 3
    assert (device["hits"], device["misses"], device["missed_tokens"]) == (0, 3, device["missed_tokens"])
    size = device["bytes"]
    assert size["free"] + size["cached"] + size["held"] == size["total"] == site.service.cache.capacity
    assert size["cached"] == device["missed_tokens"] * site.service.cache.bytes_per_token
    assert device["missed_tokens"] < usage["prompt_tokens"]
    cleared = site.http.delete("/v1/cache").json()
    assert cleared == {"dropped_nodes": 3, "dropped_bytes": size["cached"], "held_bytes": 0}
    assert site.http.get("/v1/cache").json()["nodes"] == 0
    assert site.ask().json()["usage"]["cached_tokens"]["device"] == 0


def test_emptying_the_cache_under_a_running_answer_harms_it_not(open_site):
    expected = open_site(max_tokens=60).ask(max_tokens=60).json()["answer"]
    site = open_site(step_seconds=0.005, max_tokens=60)
    body = {"question": "Why do otters hold hands?", "stream": True, "max_tokens": 60}
    with site.http.stream("POST", "/v1/query", json=body) as response:
        lines = response.iter_lines()
        while next(lines) != "event: delta":
            pass
        cleared = site.http.delete("/v1/cache").json()
        assert cleared["held_bytes"] > 0
        assert cleared["dropped_nodes"] == 0
        rest = list(lines)
    assert json.loads(rest[-2].removeprefix("data: "))["answer"] == expected


def test_metrics_are_prometheus_and_add_up(site):
    answers = [site.ask().json(), site.ask().json(), site.ask("What is rust?").json()]
    site.ask("")
    site.settled()
    values = metrics_of(site.http)
    usage = [answer["usage"] for answer in answers]
    assert values["ragcache_requests_total", "answered"] == 3
    assert values["ragcache_requests_total", "rejected"] == 1
    assert values["ragcache_prompt_tokens_total", "computed"] == sum(u["computed_tokens"] for u in usage)
    assert values["ragcache_prompt_tokens_total", "device"] == sum(u["cached_tokens"]["device"] for u in usage)
    assert values["ragcache_completion_tokens_total",] == sum(u["completion_tokens"] for u in usage)
    assert values["ragcache_engine_tokens_total", "prefill"] == sum(u["computed_tokens"] for u in usage)
    size = {state: values["ragcache_cache_bytes", state, "device"] for state in ("free", "cached", "held", "total")}
    assert size["free"] + size["cached"] + size["held"] == size["total"]
    assert values["ragcache_cache_hits_total", "device"] + values["ragcache_cache_misses_total", "device"] == 9
    assert values["ragcache_cache_nodes", "device"] == values["ragcache_cache_insertions_total", "device"]
    assert values["ragcache_requests_running",] == values["ragcache_requests_waiting",] == 0
    for phase in ("ttft", "total", "retrieval", "queue", "prefill"):
        assert values[f"ragcache_{phase}_seconds_count",] == 3
        reported = sum(answer["timing"][f"{phase}_ms"] for answer in answers) / 1000
        assert values[f"ragcache_{phase}_seconds_sum",] == pytest.approx(reported, abs=1e-6)


def test_failed_moves_are_told_by_reason(site):
    """The cache must be seen above all when something is wrong with it."""
    site.service.cache.counts.failures.update({"memory": 2, "io": 1})
    assert site.http.get("/v1/cache").json()["tiers"]["device"]["failures"] == {"memory": 2, "io": 1}
    assert metrics_of(site.http)["ragcache_cache_failures_total", "memory", "device"] == 2


def test_a_stream_counts_in_the_latencies_too(site):
    site.ask(stream=True)
    assert metrics_of(site.http)["ragcache_ttft_seconds_count",] == 1
