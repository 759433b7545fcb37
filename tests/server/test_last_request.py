"""Last requests of connections: what a client sends behind one is ignored, and its answer is sent whole."""

import logging
import socket
import time
from typing import Any

import pytest

from tests.server.raw_http import GET, HEAD, QUERY, rest

STREAM = QUERY[:-1] + b', "stream": true}'
LAST = {
    "close": HEAD.replace(b"Host: x", b"Host: x\r\nConnection: close"),
    "close, among others": HEAD.replace(b"Host: x", b"Host: x\r\nConnection: x, Close"),
    "HTTP/1.0": HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"),
}
BEHIND = {"line end": b"\r\n", "request": GET, "junk": b"\0junk\r\n\r\n", "much": b"x" * 1_000_000}


@pytest.mark.parametrize("behind", BEHIND)
def test_what_comes_behind_the_last_request_of_a_connection_is_ignored(
    open_site: Any, behind: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = open_site(step_seconds=0.15)
    clients = {
        (kind, body, times): site.raw(head.replace(b"%d" % len(QUERY), b"%d" % len(body)) + body)
        for kind, head in LAST.items()
        for body in (QUERY, STREAM)
        for times in (1, 3)
    }
    for number in range(3):  # at once, and while the answer is computed
        for (_, _, times), raw in clients.items():
            if number < times:
                raw.sendall(BEHIND[behind])
        time.sleep(0.05)
    for (kind, *_), raw in clients.items():
        if kind == "HTTP/1.0":
            raw.shutdown(socket.SHUT_WR)
    for (kind, body, _), raw in clients.items():
        with raw:
            received = rest(raw)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n"), kind
        assert received.count(b"HTTP/1.1") == 1
        assert (b"event: done" in received) is (body == STREAM)
    site.settled()
    assert site.service.stats.outcomes["cancelled"] == 0
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_client_that_hangs_up_behind_its_last_request_stops_the_work(open_site: Any) -> None:
    site = open_site(step_seconds=0.005, max_tokens=2000)
    body = QUERY.replace(b"3", b"2000")
    raw = site.raw(LAST["close"].replace(b"%d" % len(QUERY), b"%d" % len(body)) + body)
    raw.sendall(b"\r\n")
    time.sleep(0.1)
    assert site.service.running == 1
    raw.close()
    site.settled()
    assert site.service.stats.outcomes["cancelled"] == 1
