"""Answers and streams of the API over a real connection, alone and of many clients at once."""

import threading
import time

from tests.server.conftest import PATIENCE
from tests.server.responses import events_in


def test_an_answer_has_the_documented_shape(site):
    response = site.ask(top_k=2, max_tokens=5)
    assert response.status_code == 200
    body = response.json()
    assert body.keys() == {"id", "answer", "finish_reason", "documents", "order", "usage", "timing", "speculation"}
    assert body["documents"][0].keys() == {"id", "title", "score", "truncated", "source", "start", "end"}
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


def test_health_and_readiness(site):
    assert site.http.get("/healthz").json() == {"status": "ok"}
    assert site.http.get("/readyz").json() == {"status": "ready"}


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


def test_a_null_is_a_field_that_is_not_there(site):
    fields = ("top_k", "max_tokens", "temperature", "top_p", "seed", "stop", "timeout_ms", "stream")
    answered = site.ask(**dict.fromkeys(fields))
    assert answered.status_code == 200, answered.text
    assert answered.json()["answer"] == site.ask().json()["answer"]
