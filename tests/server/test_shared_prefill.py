"""Over HTTP, at once: many clients with one question, whose documents are computed for one of them."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.server.conftest import until
from tests.server.tiered_site import metrics_of

CLIENTS = 6
QUESTION = "Why do otters hold hands?"


def usages(site: Any, clients: int) -> list[dict[str, Any]]:
    together = threading.Barrier(clients)

    def ask(_: int) -> dict[str, Any]:
        together.wait()
        body = site.ask(question=QUESTION, top_k=2, max_tokens=2).json()
        usage = body["usage"]
        assert usage["computed_tokens"] + sum(usage["cached_tokens"].values()) == usage["prompt_tokens"]
        return usage

    with ThreadPoolExecutor(clients) as pool:
        return sorted(pool.map(ask, range(clients)), key=lambda usage: -usage["computed_tokens"])


def test_one_client_of_many_computes_the_documents_and_the_metrics_say_what_was_shared(open_site):
    site = open_site(step_seconds=0.02, prefill_chunk=16)
    first, *others = usages(site, CLIENTS)
    assert first["computed_tokens"] == first["prompt_tokens"]
    rest = others[0]["computed_tokens"]
    assert [usage["computed_tokens"] for usage in others] == [rest] * (CLIENTS - 1)
    assert rest < first["prompt_tokens"] / 2
    values = metrics_of(site.http)
    # some may come when the first segments are there
    assert 0 < values["ragcache_shared_in_flight_tokens_total",] <= (CLIENTS - 1) * (first["prompt_tokens"] - rest)
    assert values["ragcache_prompt_tokens_total", "computed"] == first["prompt_tokens"] + (CLIENTS - 1) * rest
    assert values["ragcache_engine_tokens_total", "prefill"] == first["prompt_tokens"] + (CLIENTS - 1) * rest
    # what comes later finds it cached, which is not sharing in flight
    assert [usage["computed_tokens"] for usage in usages(site, 2)] == [rest] * 2
    shared = "ragcache_shared_in_flight_tokens_total"
    assert metrics_of(site.http)[shared,] == values[shared,]


def test_a_client_that_hangs_up_leaves_its_work_to_those_that_wait(open_site):
    site = open_site(step_seconds=0.05, prefill_chunk=16)
    with contextlib.ExitStack() as leads:
        body = {"question": QUESTION, "top_k": 2, "max_tokens": 2, "stream": True}
        leads.enter_context(site.http.stream("POST", "/v1/query", json=body))
        until(lambda: site.service.running == 1)
        with ThreadPoolExecutor(1) as pool:
            others = pool.submit(usages, site, 3)
            until(lambda: site.service.running == 4)
            leads.close()
            first, *rest = others.result()
    assert 0 < first["computed_tokens"] <= first["prompt_tokens"]
    assert len({usage["computed_tokens"] for usage in rest}) == 1
    until(lambda: site.service.cache.balance().held == 0)
    assert site.service.stats.outcomes == {"answered": 3, "cancelled": 1}
