"""Each bad request gets one clear message over a real connection, whether a stream was asked for or not."""

import json
import socket
from typing import Any

import pydantic
import pytest

from server.app import MAX_BODY_BYTES
from server.request_body import parse_json
from server.schemas import QueryBody
from tests.server.conftest import PATIENCE
from tests.server.responses import error_of


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
        ({"question": "a", "top_k": 10**400}, 422, "top_k", "the corpus has 16 documents"),
        ({"question": "a", "max_tokens": 10**400}, 422, "max_tokens", "it may be 1 to 16"),
        ({"question": "a", "timeout_ms": 10**400}, 422, "timeout_ms", "it may be 1 to 2147483647"),
        ({"question": "a", "timeout_ms": -(10**400)}, 422, "timeout_ms", "it may be 1 to 2147483647"),
        ({"question": "a", "seed": 10**400}, 422, "seed", "0 to 2^63 - 1"),
        ({"question": "a", "top_p": 10**400}, 422, "top_p", "valid number"),
        ({"question": "a", "top_p": 0}, 422, "top_p", "above 0 and up to 1"),
        ({"question": "a", "top_p": "most"}, 422, "top_p", "valid number"),
        ({"question": "a", "seed": -1}, 422, "seed", "0 to 2^63 - 1"),
        ({"question": "a", "seed": 1.5}, 422, "seed", "valid integer"),
        ({"question": "a", "stop": ""}, 422, "stop", "1 to 200 characters"),
        ({"question": "a", "stop": ["x"] * 9}, 422, "stop", "up to 8 strings"),
        ({"question": "a", "stop": [1]}, 422, "stop.0", "valid string"),
        ({"question": "a", "stop": 1}, 422, "stop", "a string or a list of strings"),
        ({"question": "a", "stop": {}}, 422, "stop", "a string or a list of strings"),
        ({"question": "a", "stop": [None]}, 422, "stop.0", "valid string"),
        ({"question": "a", "order": "best"}, 422, "order", "order is one of retrieval, tree, not 'best'"),
        ({"question": "a", "order": 1}, 422, "order", "valid string"),
        ({"question": "a", "temperature": "hot"}, 422, "temperature", "valid number"),
        ({"question": "a", "temperature": True}, 422, "temperature", "valid number"),
        ({"question": "a", "stream": "yes"}, 422, "stream", "valid boolean"),
        ({"question": "a", "stream": 1}, 422, "stream", "valid boolean"),
        ({"question": "a", "topk": 3}, 422, "topk", "unknown field 'topk'"),
        ({"question": "a", "x" * 5000: 3}, 422, "x" * 100 + "…", "unknown field 'xxx"),
        ({"question": "a", "stop": [["x"] * 5000]}, 422, "stop.0", "valid string"),
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


def test_an_answer_repeats_little_of_what_was_sent(site):
    for content in (
        b'{"question": "a", "%s": 1}' % (b"x" * 900_000),
        b'{"question": "a", "seed": -%s}' % (b"9" * 4000),
    ):
        response = site.post(content)
        assert response.status_code == 422
        assert len(response.content) < 500


def errors_made(content: bytes) -> int:
    with pytest.raises(pydantic.ValidationError) as caught:
        QueryBody.model_validate(parse_json(content))
    return caught.value.error_count()


def test_a_body_that_is_wrong_all_over_makes_few_errors():
    """An error each for 100,000 elements or fields is half a gigabyte, out of 1 KB of gzip; only the first is told."""
    assert errors_made(b'{"question": "a", "stop": [' + b"1," * 400_000 + b"1]}") == 1
    assert errors_made(b'{"question": "a", "stop": {' + many_fields(80_000) + b"}}") == 1
    assert errors_made(b'{"question": "a", "stop": [[' + b"1," * 400_000 + b"1]]}") == 1
    assert errors_made(b"{" + many_fields(80_000) + b"}") == 2  # without a question
    assert errors_made(b'{"question": 1, "top_k": "", "stop": [1, 1], ' + many_fields(80_000) + b"}") == 4


def many_fields(number: int) -> bytes:
    return b",".join(b'"%d": 1' % each for each in range(number))


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
    assert error_of(missing)["message"] == "there is nothing at /v2/query; / lists what there is"
    assert site.http.get("/healthz/").status_code == 404
    wrong = site.http.get("/v1/query")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST, OPTIONS"
    assert error_of(wrong)["message"] == "/v1/query has no method GET; its header Allow names those that it has"


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


def test_while_it_drains_it_refuses_and_says_so(site):
    site.app.state.draining = True
    for response in (site.http.get("/readyz"), site.ask()):
        assert response.status_code == 503
        assert "shutting down" in error_of(response)["message"]
        assert response.headers["retry-after"] == "1"
    assert site.http.get("/healthz").status_code == 200


def test_too_many_are_told_to_come_back(open_site):
    site = open_site(max_batch=1, max_waiting=0, step_seconds=0.01, max_tokens=2000)
    with site.http.stream("POST", "/v1/query", json={"question": "rust?", "stream": True, "max_tokens": 2000}) as first:
        lines = first.iter_lines()  # an iterator that is let go of would close the connection
        assert next(lines) == "event: documents"
        refused = site.ask()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert error_of(refused)["type"] == "overloaded"
    site.settled()
    assert site.ask(max_tokens=1).status_code == 200
