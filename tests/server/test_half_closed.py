"""Half-closed clients: those that have said all they have to say, and still await their answers."""

import logging
import re
import socket
import time
from typing import Any

import pytest

from server.connection import Patience
from tests.server.conftest import until
from tests.server.raw_http import GET, HEAD, QUERY, answer, rest

LONG = Patience(header=60, body=60, idle=60)
HALF_CLOSED = {
    "question": HEAD + QUERY,
    "stream": HEAD.replace(b"%d" % len(QUERY), b"%d" % (len(QUERY) + 16)) + QUERY[:-1] + b', "stream": true}',
    "get": GET,
    "several": GET + HEAD + QUERY + GET,
    "questions": (HEAD + QUERY) * 3,
    "HTTP/1.0": b"GET /healthz HTTP/1.0\r\n\r\n",
    "close": b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "chunked": HEAD.replace(b"Content-Length: %d" % len(QUERY), b"Transfer-Encoding: chunked")
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(QUERY), QUERY),
}


def test_a_client_that_closes_its_writing_half_gets_its_answer(open_site: Any, caplog: Any) -> None:
    site = open_site(step_seconds=0.1)
    for pause in (0.0, 0.2):  # at once, and while the answer is computed
        clients = {kind: site.raw(sent) for kind, sent in HALF_CLOSED.items()}
        time.sleep(pause)
        for raw in clients.values():
            raw.shutdown(socket.SHUT_WR)
        for kind, raw in clients.items():
            with raw:
                received = rest(raw)
            assert received.startswith(b"HTTP/1.1 200 OK\r\n"), kind
            assert received.count(b"HTTP/1.1 200 OK") == (3 if kind in ("several", "questions") else 1), kind
            assert b"\0" not in received
            assert (b"event: done" in received) is (kind == "stream")
    site.settled()
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_requests_before_one_that_is_none_have_their_answers(open_site: Any) -> None:
    site = open_site()
    for sent in (GET * 2, HEAD + QUERY + GET, (HEAD + QUERY) * 2):
        with site.raw(sent + b"GARB\r\n\r\n") as raw:
            received = rest(raw)
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"400"], sent


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_closes_its_writing_half_and_hangs_up_later_stops_the_work(open_site: Any, stream: bool) -> None:
    site = open_site(step_seconds=0.005, max_tokens=2000)
    raw = site.connect({"question": "What is rust?", "stream": stream, "max_tokens": 2000})
    raw.shutdown(socket.SHUT_WR)
    until(lambda: site.service.engine.stats().decode_tokens > 50)
    assert site.service.running == 1
    raw.close()
    site.settled()
    assert site.service.engine.stats().steps < 1000
    until(lambda: site.service.stats.outcomes["cancelled"] == 1)


def test_half_a_request_is_not_waited_for_and_is_told_so(open_site: Any) -> None:
    site = open_site(http={"patience": LONG})
    chunked = HEAD.replace(b"Content-Length: %d" % len(QUERY), b"Transfer-Encoding: chunked") + b"5\r\n{"
    kinds = {
        b"": None,
        GET: None,
        b"GET /hea": ("malformed_request", "the header ends early"),
        HEAD: ("incomplete_body", "the body ends early"),
        HEAD + QUERY[:5]: ("incomplete_body", "the body ends early"),
        chunked: ("incomplete_body", "the body ends early"),
    }
    for sent, refusal in kinds.items():
        with site.raw(sent) as raw:
            if sent == GET:
                assert answer(raw)[0] == 200
            raw.shutdown(socket.SHUT_WR)
            if refusal is not None:
                status, body = answer(raw)
                assert (status, body["error"]["type"]) == (400, refusal[0]), sent
                assert body["error"]["message"].startswith(refusal[1])
            assert rest(raw) in (b"", b"reset"), sent
    until(lambda: not site.server.connections)
    assert site.service.stats.outcomes.total() == 0
