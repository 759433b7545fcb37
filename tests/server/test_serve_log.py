"""The log of a real `ragcache serve`: every line has its form, from the start to the end."""

import json
import re
import signal

import pytest

HEAD = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (info|warning|error|critical) +\[\S+\] \S")
QUESTION = {"question": "Why do otters hold hands?", "max_tokens": 3}


@pytest.mark.full(proof="test_in_json_every_line_of_stderr_is_an_object")
@pytest.mark.parametrize("form", ["json", "text"])
def test_a_server_s_log_from_its_start_to_its_end(serve, form):
    serving = serve("--log-format", form)
    with serving.ready() as client:
        headers = {"X-Request-Id": "its-own"}
        assert client.post("/v1/query", json=QUESTION, headers=headers).headers["X-Request-Id"] == "its-own"
        client.get("/a%0A2026-01-01T00:00:00.000Z info [-] forged%1b[2J", headers={"X-Request-Id": "a b"})
        client.get("/healthz")
    assert serving.end(signal.SIGTERM)[0] == 0
    serving.process.wait()
    serving._reader.join(10)
    lines = serving.errors.splitlines()
    assert "otters" not in serving.errors
    assert "\x1b" not in serving.errors
    if form == "json":
        values = [json.loads(line) for line in lines]
        assert all({"time", "level", "logger", "message"} <= set(each) for each in values)
        messages = [each["message"] for each in values]
        answered, missing = [each for each in values if each["message"] == "request"]
        assert (answered["request_id"], answered["status"], answered["completion_tokens"]) == ("its-own", 200, 3)
        assert missing["path"].startswith("/a\n2026")
        assert re.fullmatch("[0-9a-f]{32}", missing["request_id"])
    else:
        messages = [HEAD.sub("", line) for line in lines]
        assert all(HEAD.match(line) for line in lines)
        answered, missing = [line for line in lines if "] request " in line]
        assert "[its-own] request method=POST path=/v1/query status=200 answer_id=rag-" in answered
        assert " forged" in missing
    order = [n for n, line in enumerate(lines) if re.search("loading |serving |stopping: |stopped", line)]
    assert len(order) == 4
    assert order[0] == 0
    assert order[-1] == len(lines) - 1, messages


@pytest.mark.full(proof="test_an_error_that_ends_the_process_is_an_object_too")
@pytest.mark.parametrize("form", ["text", "json"])
def test_what_cannot_be_served_is_a_line_of_its_form(serve, form):
    serving = serve("--log-format", form, model="/no/such/model")
    assert serving.process.wait(60) == 1
    serving._reader.join(10)
    last = serving.errors.splitlines()[-1]
    if form == "json":
        assert json.loads(last)["level"] == "critical"
        assert json.loads(last)["message"].startswith("no model at /no/such/model")
    else:
        assert last.startswith("ragcache serve: no model at /no/such/model")
