"""Every answer of the API, over a real connection: the good one, and one clear message for each bad request."""

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.app import MAX_BODY_BYTES

PATIENCE = 30


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def events_in(stream: str) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events, read strictly: each is a name, one line of data and an empty line."""
    events = []
    assert stream.endswith("\n\n")
    for block in stream.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def error_of(response) -> dict[str, Any]:
    """The error in a response that has nothing else."""
    body = response.json()
    assert body.keys() == {"error"}
    assert response.headers["content-type"] == "application/json"
    assert "Traceback" not in response.text
    return body["error"]


def metrics_of(site) -> dict[tuple[str, ...], float]:
    text = site.http.get("/metrics").text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_answer_has_the_documented_shape(site):
    response = site.ask(top_k=2, max_tokens=5)
    assert response.status_code == 200
    body = response.json()
    assert body.keys() == {"id", "answer", "finish_reason", "documents", "usage", "timing", "speculation"}
    assert body["documents"][0].keys() == {"id", "title", "score", "truncated"}
    assert [body["documents"][0][name] for name in ("id", "title")] == ["otter", "Otter"]
    assert len(body["documents"]) == 2
    assert body["documents"][0]["score"] > body["documents"][1]["score"]
    assert body["usage"].keys() == {"prompt_tokens", "completion_tokens", "computed_tokens", "cached_tokens"}
    assert body["usage"]["cached_tokens"] == {"device": 0, "host": 0, "disk": 0}
    assert body["usage"]["completion_tokens"] == 5
    assert body["timing"].keys() == {
        "retrieval_ms", "queue_ms", "prefill_ms", "ttft_ms", "total_ms", "search_overlap_ms"
    }  # fmt: skip
    assert body["speculation"] == {"started": 0, "used": False, "wasted_tokens": 0}
    assert body["finish_reason"] == "length"


def test_tokens_add_up_the_first_time_and_the_second(site):
    for _ in range(2):
        usage = site.ask().json()["usage"]
        assert usage["computed_tokens"] + sum(usage["cached_tokens"].values()) == usage["prompt_tokens"]
    assert usage["cached_tokens"]["device"] > usage["computed_tokens"]


def test_sampling_options_reach_the_answer(site):
    drawn = [site.ask(temperature=1.5, top_p=0.95, seed=seed).json()["answer"] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    whole = site.ask().json()["answer"]
    for stop in (whole[4:6], ["never said by anybody", whole[4:6]]):
        body = site.ask(stop=stop).json()
        assert body["answer"] == whole[: whole.find(whole[4:6])]
        assert body["finish_reason"] == "stop"


def test_a_stream_is_documents_deltas_done(site):
    whole = site.ask().json()
    response = site.ask(stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_in(response.text)
    names = [name for name, _ in events]
    assert names[0] == "documents"
    assert names[-1] == "done"
    assert set(names[1:-1]) == {"delta"}
    answer = events[-1][1]
    assert events[0][1] == {"id": answer["id"], "documents": answer["documents"]}
    assert "".join(data["text"] for name, data in events if name == "delta") == answer["answer"] == whole["answer"]
    assert answer.keys() == whole.keys()


def test_a_stream_is_sent_as_it_is_written(open_site):
    site = open_site(step_seconds=0.02)
    with site.http.stream("POST", "/v1/query", json={"question": "What is rust?", "stream": True}) as response:
        begin = time.monotonic()
        times = [time.monotonic() - begin for line in response.iter_lines() if line.startswith("event: ")]
    assert times[-1] - times[1] > 0.1  # one lump at the end would have no distance


@pytest.mark.parametrize(
    ("body", "status", "field", "message"),
    [
        ({}, 422, "question", "Field required"),
        ({"question": ""}, 422, "question", "the question is empty"),
        ({"question": "  \n"}, 422, "question", "the question is empty"),
        ({"question": None}, 422, "question", "valid string"),
        ({"question": 3}, 422, "question", "valid string"),
        ({"question": ["a"]}, 422, "question", "valid string"),
        ({"question": "Z" * 65}, 413, "question", "longer than 64 tokens"),
        ({"question": "why? " * 100_000}, 413, "question", "longer than 64 tokens"),
        ({"question": "\ud800"}, 422, "question", "surrogate"),
        ({"question": "a", "top_k": 0}, 422, "top_k", "top_k is 0; the corpus has 16 documents"),
        ({"question": "a", "top_k": 17}, 422, "top_k", "top_k is 17; the corpus has 16 documents"),
        ({"question": "a", "top_k": 10**30}, 422, "top_k", "the corpus has 16 documents"),
        ({"question": "a", "top_k": "2"}, 422, "top_k", "valid integer"),
        ({"question": "a", "top_k": 2.0}, 422, "top_k", "valid integer"),
        ({"question": "a", "top_k": True}, 422, "top_k", "valid integer"),
        ({"question": "a", "max_tokens": 0}, 422, "max_tokens", "it may be 1 to 16"),
        ({"question": "a", "max_tokens": 17}, 422, "max_tokens", "it may be 1 to 16"),
        ({"question": "a", "temperature": -1}, 422, "temperature", "it may be 0 to 5"),
        ({"question": "a", "temperature": 5.01}, 422, "temperature", "it may be 0 to 5"),
        ({"question": "a", "temperature": 10**400}, 422, "temperature", "valid number"),
        ({"question": "a", "top_p": 0}, 422, "top_p", "above 0 and up to 1"),
        ({"question": "a", "top_p": "most"}, 422, "top_p", "valid number"),
        ({"question": "a", "seed": -1}, 422, "seed", "0 to 2^63 - 1"),
        ({"question": "a", "seed": 1.5}, 422, "seed", "valid integer"),
        ({"question": "a", "stop": ""}, 422, "stop", "1 to 200 characters"),
        ({"question": "a", "stop": ["x"] * 9}, 422, "stop", "up to 8 strings"),
        ({"question": "a", "stop": [1]}, 422, "stop.0", "valid string"),
        ({"question": "a", "temperature": "hot"}, 422, "temperature", "valid number"),
        ({"question": "a", "temperature": True}, 422, "temperature", "valid number"),
        ({"question": "a", "stream": "yes"}, 422, "stream", "valid boolean"),
        ({"question": "a", "stream": 1}, 422, "stream", "valid boolean"),
        ({"question": "a", "topk": 3}, 422, "topk", "unknown field 'topk'"),
        # whose KV may be used is not the client's to say
        ({"question": "a", "namespace": "red"}, 422, "namespace", "unknown field 'namespace'"),
        ({"question": "a", "\ud800": 3}, 422, None, "unicode"),
    ],
)
def test_a_bad_field_is_named(site, body, status, field, message):
    for sent in (body, {"stream": True} | body):  # a stream has not begun yet: the same status and body
        response = site.post(json.dumps(sent).encode())
        assert response.status_code == status
        error = error_of(response)
        assert error.get("field") == field
        assert message in error["message"]


def test_limits_are_told(site):
    assert error_of(site.ask("Z" * 65))["limit"] == 64
    assert error_of(site.ask(top_k=17))["limit"] == 16
    assert error_of(site.ask(max_tokens=17))["limit"] == 16


def test_json_that_is_no_query_is_refused(site):
    for content in (b"[]", b"null", b'"why?"', b"3", b"[[[[]]]]", b'[{"question": "a"}]'):
        response = site.post(content)
        assert response.status_code == 422, content
        assert error_of(response)["message"].startswith("body: ")


def test_a_body_of_another_type_is_told_what_is_expected(site):
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        response = site.post(b'{"question": "What is rust?"}', content_type)
        assert response.status_code == 415
        assert "application/json" in error_of(response)["message"]


def test_a_body_over_the_limit_is_refused_by_its_length(site):
    response = site.post(b'{"question": "' + b"x" * MAX_BODY_BYTES + b'"}')
    assert response.status_code == 413
    error = error_of(response)
    assert (error["type"], error["limit"]) == ("body_too_large", MAX_BODY_BYTES)
    assert site.ask().status_code == 200


def test_a_body_over_the_limit_is_refused_while_it_comes(site):
    def chunks():
        yield b'{"question": "'
        for _ in range(40):
            yield b"x" * (MAX_BODY_BYTES // 20)

    response = site.http.post("/v1/query", content=chunks(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    error = error_of(response)
    assert (error["type"], error["limit"]) == ("body_too_large", MAX_BODY_BYTES)
    assert site.ask().status_code == 200


def test_a_body_of_the_limit_is_read(site):
    body = json.dumps({"question": "a"}).encode()
    assert site.post(body + b" " * (MAX_BODY_BYTES - len(body))).status_code == 200


@pytest.mark.parametrize("length", [b"-5", b"abc", b"99999999999999999999999"])
def test_a_strange_content_length_harms_nobody(site, length):
    with socket.create_connection(site.address, timeout=PATIENCE) as raw:
        raw.sendall(b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n{}")
        assert raw.recv(100).split()[1] in (b"400", b"413")
    assert site.ask().status_code == 200


def test_unknown_routes_and_methods(site):
    missing = site.http.get("/v2/query")
    assert missing.status_code == 404
    assert error_of(missing)["message"] == "Not Found"
    wrong = site.http.get("/v1/query")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST, OPTIONS"
    assert error_of(wrong)["message"] == "Method Not Allowed"


def test_more_documents_than_the_context_holds(open_site, tiny_model):
    class Short:
        context_length = 300

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_model, name)

    site = open_site(model=Short())
    for stream in (False, True):
        response = site.ask(top_k=16, stream=stream)
        assert response.status_code == 422
        error = error_of(response)
        assert (error["field"], error["limit"]) == ("top_k", 284)
        assert "ask for a smaller top_k" in error["message"]


def test_health_and_readiness(site):
    assert site.http.get("/healthz").json() == {"status": "ok"}
    assert site.http.get("/readyz").json() == {"status": "ready"}


def test_while_it_drains_it_refuses_and_says_so(site):
    site.app.state.draining = True
    for response in (site.http.get("/readyz"), site.ask()):
        assert response.status_code == 503
        assert "shutting down" in error_of(response)["message"]
        assert response.headers["retry-after"] == "1"
    assert site.http.get("/healthz").status_code == 200


def test_too_many_are_told_to_come_back(open_site):
    site = open_site(max_batch=1, max_waiting=0, step_seconds=0.01, max_tokens=200)
    with site.http.stream("POST", "/v1/query", json={"question": "rust?", "stream": True, "max_tokens": 200}) as first:
        assert next(first.iter_lines()) == "event: documents"
        refused = site.ask()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert error_of(refused)["type"] == "overloaded"
    site.settled()
    assert site.ask(max_tokens=1).status_code == 200


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
    values = metrics_of(site)
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
    assert metrics_of(site)["ragcache_cache_failures_total", "memory", "device"] == 2


def test_a_stream_counts_in_the_latencies_too(site):
    site.ask(stream=True)
    assert metrics_of(site)["ragcache_ttft_seconds_count",] == 1


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
    assert metrics_of(site)["ragcache_requests_total", "failed"] == 2
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
    assert metrics_of(site)["ragcache_requests_total", "expired"] == 2
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


def test_many_clients_at_once_get_what_each_gets_alone(open_site):
    questions = [
        "What is rust?",
        "How does a kite fly?",
        "Why do bees dance?",
        "How is cheese aged?",
        "What is a tide?",
    ]
    alone = open_site()
    expected = {question: alone.ask(question).json()["answer"] for question in questions}
    site = open_site(cache_tokens=700, max_batch=4)
    answers: list[tuple[str, str]] = []

    def client(question: str, stream: bool) -> None:
        response = site.ask(question, stream=stream)
        body = events_in(response.text)[-1][1] if stream else response.json()
        answers.append((question, body["answer"]))

    threads = [threading.Thread(target=client, args=(q, n % 2 == 0)) for n, q in enumerate(questions * 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(answers) == 15
    assert all(answer == expected[question] for question, answer in answers)
    site.settled()


def test_the_api_describes_itself(site):
    description = site.http.get("/openapi.json").json()
    assert set(description["paths"]) == {"/", "/v1/query", "/healthz", "/readyz", "/metrics", "/v1/cache"}
    assert {"200", "400", "413", "415", "422", "429", "500", "503"} <= set(
        description["paths"]["/v1/query"]["post"]["responses"]
    )
