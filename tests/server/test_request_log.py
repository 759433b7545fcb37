"""Each request has an id and a line of the log: over real sockets, by whatever end."""

import concurrent.futures
import json
import logging
import re
import socket
import struct

import pytest

from ragcache.console.log import JsonFormatter, TextFormatter, request_id
from server.connection import Patience
from server.request_log import HEADER
from tests.server.conftest import until

QUESTION = {"question": "Why do otters hold hands?", "max_tokens": 4}


class Lines(logging.Handler):
    """What is logged, with the request's id at that moment."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[str, logging.LogRecord]] = []
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((request_id.get(), record))
        self.written += [TextFormatter().format(record), JsonFormatter().format(record)]

    def requests(self) -> list[dict[str, object]]:
        return [
            {"id": its_id, "level": record.levelname, **record.fields}
            for its_id, record in self.lines
            if record.name == "server.request_log" and hasattr(record, "fields")
        ]


@pytest.fixture
def lines():
    handler = Lines()
    loggers = [logging.getLogger(name) for name in ("server", "ragcache")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler
    for logger, level in zip(loggers, before, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def line_of(lines: Lines, count: int = 1) -> dict[str, object]:
    until(lambda: len(lines.requests()) >= count)
    assert len(lines.requests()) == count
    return lines.requests()[-1]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_has_one_line_with_its_tokens_and_times(site, lines, stream):
    response = site.http.post("/v1/query", json={**QUESTION, "stream": stream}, headers={HEADER: "my-id_1:2"})
    assert response.headers[HEADER] == "my-id_1:2"
    body = json.loads(response.text.split("data: ")[-1]) if stream else response.json()
    line = line_of(lines)
    usage = body["usage"]
    assert line.pop("total_ms") >= body["timing"]["total_ms"] - 1
    assert line == {
        "id": "my-id_1:2",
        "level": "INFO",
        "method": "POST",
        "path": "/v1/query",
        "status": 200,
        "answer_id": body["id"],
        "finish_reason": body["finish_reason"],
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": sum(usage["cached_tokens"].values()),
        "computed_tokens": usage["computed_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "ttft_ms": body["timing"]["ttft_ms"],
    }
    for written in lines.written:
        assert "otters" not in written
        assert body["answer"][:12] not in written


@pytest.mark.parametrize(
    "given",
    ["", "a" * 129, "with space", "semi;colon", 'quo"te', "Zürich".encode().decode("latin-1"), "-starts", "<script>"],
)
def test_an_id_that_is_not_valid_is_replaced(site, lines, given):
    answered = site.http.get("/healthz", headers={HEADER: given.encode("latin-1")}).headers[HEADER]
    assert re.fullmatch("[0-9a-f]{32}", answered)
    assert line_of(lines)["id"] == answered


@pytest.mark.parametrize(
    "given", ["a", "A" * 128, "550e8400-e29b-41d4-a716-446655440000", "1-5759e988-bd862e3fe1be46a994272793", "a/b+c=="]
)
def test_an_id_that_is_valid_is_kept(site, given):
    assert site.http.get("/healthz", headers={HEADER: given}).headers[HEADER] == given


def test_two_ids_are_none(site):
    answered = site.http.get("/healthz", headers=[(HEADER, "a"), (HEADER, "b")]).headers.get_list(HEADER)
    assert len(answered) == 1
    assert answered[0] not in ("a", "b", "a, b")


@pytest.mark.parametrize(
    ("method", "path", "send", "status", "error"),
    [
        ("GET", "/nothing", {}, 404, "http_error"),
        ("POST", "/v1/query", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, None),
        ("POST", "/v1/query", {"json": {"question": ""}}, 422, "invalid_request"),
        ("POST", "/v1/query", {"json": {**QUESTION, "top_k": 99}}, 422, "invalid_request"),
        ("POST", "/v1/query", {"content": b"x" * (2 << 20)}, 413, "body_too_large"),
        ("PUT", "/v1/query", {}, 405, "http_error"),
    ],
)
def test_an_error_has_its_type_in_its_line(site, lines, method, path, send, status, error):
    response = site.http.request(method, path, **send)
    line = line_of(lines)
    assert (response.status_code, line["status"], line["path"]) == (status, status, path)
    assert line["error"] == (error or response.json()["error"]["type"])
    assert response.headers[HEADER] == line["id"]
    assert line["level"] == "INFO"


def test_a_path_cannot_write_lines(site, lines):
    site.http.get("/a%0A2026-01-01%1b%5B2J%E2%80%A8b" + "x" * 500)
    assert str(line_of(lines)["path"]).startswith("/a\n2026")
    assert len(str(line_of(lines)["path"])) == 200
    for written in lines.written:
        assert len(written.splitlines()) == 1
        assert "\x1b" not in written


def test_probes_that_succeed_are_lines_of_debug(site, lines):
    for count, path in enumerate(("/healthz", "/readyz", "/metrics"), start=1):
        site.http.get(path)
        assert line_of(lines, count)["level"] == "DEBUG"


def test_an_error_of_the_server_has_its_traceback_and_id(site, lines, monkeypatch):
    def fail() -> None:
        raise RuntimeError("the books burn")

    monkeypatch.setattr(site.service.cache, "report", fail)
    response = site.http.get("/v1/cache", headers={HEADER: "r7"})
    assert (response.status_code, response.headers[HEADER]) == (500, "r7")
    line = line_of(lines)
    assert (line["status"], line["error"], line["id"]) == (500, "internal_error", "r7")
    (failed,) = [record for its_id, record in lines.lines if record.exc_info and its_id == "r7"]
    assert failed.levelname == "ERROR"


def test_a_client_that_hangs_up_is_named_so(open_site, lines):
    site = open_site(max_tokens=400, step_seconds=0.02)
    body = json.dumps({**QUESTION, "max_tokens": 400, "stream": True}).encode()
    with socket.create_connection(site.address) as client:
        client.sendall(
            b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Request-Id: gone\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert client.recv(100)
    line = line_of(lines)
    assert (line["id"], line["error"]) == ("gone", "client_gone")


BODY_HEAD = (
    b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Request-Id: mine\r\n"
    b"Origin: http://a.example\r\n"
)


@pytest.mark.parametrize(
    ("sent", "then", "status", "error"),
    [
        (b"Content-Length: 50\r\n\r\n{", "wait", 408, "request_timeout"),
        (b"Content-Length: 50\r\n\r\n{", "end", 400, "incomplete_body"),
        (b"Content-Length: 50\r\n\r\n{", "close", 499, "client_gone"),
        (b"Content-Length: 50\r\n\r\n{", "reset", 499, "client_gone"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "wait", 400, "malformed_request"),
    ],
)
def test_a_body_that_does_not_come_whole_is_one_line_that_says_how(open_site, lines, sent, then, status, error):
    site = open_site(
        http={"patience": Patience(header=60, body=0.5, idle=60)}, cors_origins=("http://a.example", "http://b.example")
    )
    with site.raw(BODY_HEAD + sent) as raw:
        if then in ("close", "reset"):
            until(lambda: site.server._server.server_state.tasks)
        if then == "reset":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if then == "end":
            raw.shutdown(socket.SHUT_WR)
        received = b"" if then in ("close", "reset") else raw.makefile("rb").read()
    line = line_of(lines)
    assert (line["id"], line["status"], line["error"]) == ("mine", status, error)
    if received:
        head = received.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
        assert int(head[0].split()[1]) == status
        assert {"x-request-id: mine", "connection: close", "access-control-allow-origin: http://a.example"} <= set(head)
        assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["type"] == error
    until(lambda: not site.server.connections)
    assert not [record for _, record in lines.lines if record.levelno >= logging.WARNING]


def test_what_is_refused_before_its_header_is_known_is_a_line_of_debug(site, lines):
    with site.raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as raw:
        head = raw.makefile("rb").read().partition(b"\r\n\r\n")[0].decode()
    line = line_of(lines)
    assert f"x-request-id: {line.pop('id')}" in head
    assert line == {"level": "DEBUG", "status": 400, "error": "malformed_request"}


def test_lines_of_requests_that_run_at_once_have_their_own_ids(site, lines):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        ids = [f"at-once-{number}" for number in range(8)]
        answers = list(pool.map(lambda its: site.http.post("/v1/query", json=QUESTION, headers={HEADER: its}), ids))
    assert [each.headers[HEADER] for each in answers] == ids
    until(lambda: len(lines.requests()) == 8)
    by_id = {each["id"]: each for each in lines.requests()}
    for its_id, answer in zip(ids, answers, strict=True):
        assert by_id[its_id]["answer_id"] == answer.json()["id"]


def test_what_fails_in_a_request_is_logged_with_its_id(site, lines, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("the index is gone")

    monkeypatch.setattr(site.service.finder, "find", fail)
    response = site.http.post("/v1/query", json=QUESTION, headers={HEADER: "r9"})
    assert response.status_code == 500
    until(lambda: "r9" in {its_id for its_id, record in lines.lines if record.levelno >= logging.ERROR})
