"""A client that hangs up, an engine that fails, time that is over: the work stops and the memory is free again."""

import time
from typing import Any

import pytest

from tests.server.conftest import until
from tests.server.responses import error_of, events_in
from tests.server.tiered_site import metrics_of


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_stops_the_work_and_frees_the_memory(open_site, stream):
    site = open_site(step_seconds=0.005, max_tokens=2000)
    raw = site.connect({"question": "What is rust?", "stream": stream, "max_tokens": 2000})
    until(lambda: site.service.engine.stats().decode_tokens > 3)
    assert site.service.cache.balance().held > 0
    raw.close()
    site.settled()
    steps = site.service.engine.stats().steps
    time.sleep(0.1)
    assert site.service.engine.stats().steps == steps < 1000
    until(lambda: site.service.stats.outcomes["cancelled"] == 1)
    site.service.cache.check_integrity()


def test_many_hang_up_at_all_moments(open_site):
    site = open_site(step_seconds=0.002, max_tokens=500, max_batch=2, cache_tokens=3000)
    for number in range(30):
        raw = site.connect({"question": "What is rust?", "stream": number % 2 == 0, "max_tokens": 500})
        time.sleep(0.003 * (number % 8))
        raw.close()
    site.settled()
    outcomes = site.service.stats.outcomes
    until(lambda: outcomes["cancelled"] == sum(outcomes.values()))
    assert outcomes["failed"] == 0
    assert site.ask(max_tokens=3).status_code == 200


def test_a_client_that_hangs_up_while_it_waits_leaves_the_queue(open_site):
    site = open_site(step_seconds=0.005, max_tokens=400, max_batch=1)
    first = site.connect({"question": "What is rust?", "max_tokens": 400})
    until(lambda: site.service.running == 1)
    second = site.connect({"question": "What is rust?", "max_tokens": 400})
    until(lambda: site.service.waiting == 1)
    second.close()
    until(lambda: site.service.waiting == 0)
    assert site.service.running == 1
    first.close()
    site.settled()


def test_an_engine_failure_is_a_500_or_an_event(open_site, tiny_model):
    class Failing:
        after = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_model, name)

        def forward(self, steps: Any) -> Any:
            self.after -= 1
            if self.after in (0, -1):
                raise RuntimeError("out of something")
            return tiny_model.forward(steps)

    model = Failing()
    site = open_site(model=model)
    model.after = 0  # the next step fails, and is not the first of two
    assert site.ask().status_code == 200
    model.after = 1
    response = site.ask()
    assert response.status_code == 500
    reported = {"type": "engine_failed", "message": "the engine failed: RuntimeError: out of something"}
    assert error_of(response) == reported
    model.after = 5  # in the midst of an answer, which cannot be taken back
    events = events_in(site.ask(stream=True).text)
    assert events[0][0] == "documents"
    assert events[-1] == ("error", {"error": reported})
    site.settled()
    assert metrics_of(site.http)["ragcache_requests_total", "failed"] == 2
    model.after = -1
    assert site.ask().status_code == 200


def test_a_question_whose_time_is_over_is_a_504(open_site):
    site = open_site(step_seconds=0.02)
    response = site.ask(timeout_ms=60)
    assert response.status_code == 504
    assert error_of(response) == {"type": "timeout", "message": "the question's timeout_ms is over"}
    events = events_in(site.ask(stream=True, timeout_ms=150).text)
    assert events[0][0] == "documents"
    assert events[-1][0] == "error"
    assert events[-1][1]["error"]["type"] == "timeout"
    site.settled()
    assert metrics_of(site.http)["ragcache_requests_total", "expired"] == 2
    assert site.ask(timeout_ms=60_000).status_code == 200
    assert error_of(site.ask(timeout_ms=0))["field"] == "timeout_ms"


def test_a_bug_in_the_server_is_a_500_without_its_traceback(open_site, monkeypatch):
    site = open_site()

    def broken(*_: object) -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(site.service.finder._retriever, "search_stages", broken)
    response = site.ask()
    assert response.status_code == 500
    assert "secret" not in response.text
    assert error_of(response)["type"] == "internal_error"
