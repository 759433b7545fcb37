"""A stream behind a proxy: its headers, a comment while nothing else is sent, and errors before and after that."""

import itertools
import json
import threading
import time
from typing import Any

import httpx
import pytest

from server.client import RagClient, ServerError
from tests.server.conftest import Site, until

PING = ": ping"


def stream(site: Site, **body: Any) -> Any:
    return site.http.stream("POST", "/v1/query", json={"question": "What is rust?", "stream": True, **body})


def blocks(response: httpx.Response) -> list[tuple[float, str]]:
    """The events and comments of a stream, and when each came."""
    begin, lines, read = time.monotonic(), [], []
    for line in response.iter_lines():
        lines.append(line)
        if not line:
            read.append((time.monotonic() - begin, "\n".join(lines[:-1])))
            lines = []
    return read


def test_no_proxy_is_to_keep_or_gather_a_stream(site: Site) -> None:
    with stream(site, max_tokens=2) as response:
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["content-type"].startswith("text/event-stream")
        assert PING not in [block for _, block in blocks(response)]


def test_a_comment_is_sent_while_the_prompt_is_computed(open_site: Any) -> None:
    site = open_site(ping=0.1, step_seconds=0.45)
    with stream(site, max_tokens=2) as response:
        read = blocks(response)
    kinds = [block.split("\n")[0] for _, block in read]
    first_delta = kinds.index("event: delta")
    assert kinds[:first_delta].count(PING) >= 2
    assert kinds[-1] == "event: done"
    pings = [seconds for seconds, block in read if block == PING]
    assert min(after - before for before, after in itertools.pairwise(pings)) > 0.05


def test_a_comment_is_sent_while_a_request_waits_its_turn(open_site: Any) -> None:
    site = open_site(ping=0.05, max_batch=1, step_seconds=0.01, max_tokens=200)
    with stream(site, max_tokens=200) as first:
        lines = first.iter_lines()
        while next(lines) != "event: delta":
            pass
        with stream(site, max_tokens=1) as second:
            assert second.status_code == 200
            waiting = second.iter_lines()
            assert [next(waiting) for _ in range(4)] == [PING, "", PING, ""]
            assert site.service.waiting == 1
            *_, data, _ = list(waiting)
    assert json.loads(data.removeprefix("data: "))["usage"]["completion_tokens"] == 1


def test_an_error_before_the_first_comment_sets_the_status_and_one_after_it_is_an_event(open_site: Any) -> None:
    site = open_site(ping=0.2, max_batch=1, max_waiting=1, step_seconds=0.01, max_tokens=400)
    with stream(site, max_tokens=400) as first:
        lines = first.iter_lines()
        while next(lines) != "event: delta":
            pass
        late: list[tuple[int, str]] = []

        def wait_in_vain() -> None:
            with stream(site, timeout_ms=2000) as second:
                late.append((second.status_code, "".join(second.iter_text())))

        thread = threading.Thread(target=wait_in_vain)
        thread.start()
        until(lambda: site.service.waiting == 1)
        refused = site.ask(stream=True)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "overloaded")
        thread.join()
        early = site.ask(stream=True, timeout_ms=100)
        assert (early.status_code, early.json()["error"]["type"]) == (504, "timeout")
    [(status, text)] = late
    assert status == 200
    assert text.startswith(": ping\n\n")
    assert text.endswith("\n\n")
    event, data = text.removesuffix("\n\n").rpartition("\n\n")[2].split("\n")
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["type"] == "timeout"


def test_the_client_passes_over_comments(open_site: Any) -> None:
    site = open_site(ping=0.02, step_seconds=0.1)
    with RagClient(str(site.http.base_url)) as client:
        events = list(client.stream("What is rust?", max_tokens=3))
        assert [events[0][0], events[-1][0]] == ["documents", "done"]
        assert {name for name, _ in events[1:-1]} == {"delta"}
        with pytest.raises(ServerError, match="timeout_ms is over"):
            client.ask("What is rust?", timeout_ms=150)


@pytest.mark.parametrize("when", ["before the first comment", "after it"])
def test_who_hangs_up_while_nothing_is_sent_stops_the_work(open_site: Any, when: str) -> None:
    site = open_site(ping=0.1 if when == "after it" else 10.0, step_seconds=0.05, max_batch=1, max_tokens=400)
    first = site.connect({"question": "What is rust?", "max_tokens": 400})
    until(lambda: site.service.running == 1)
    second = site.connect({"question": "What is rust?", "stream": True})
    until(lambda: site.service.waiting == 1)
    if when == "after it":
        received = b""
        while b": ping" not in received:
            received += second.recv(65536)
    second.close()
    until(lambda: site.service.waiting == 0)
    assert site.service.running == 1
    first.close()
    site.settled()


@pytest.mark.parametrize("begun", [True, False])
def test_the_end_of_the_grace_is_told_to_each_request(
    capfd: pytest.CaptureFixture[str], open_site: Any, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream that has begun gets an event, all else a status; and the log one line."""
    site = open_site(http={"grace_seconds": 0.3}, max_batch=1, step_seconds=0.05, max_tokens=400)
    whole = site.connect({"question": "What is rust?", "max_tokens": 400})
    until(lambda: site.service.running == 1)
    slow = site.raw(
        b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Type: application/json\r\n\r\n{"
    )
    until(lambda: len(site.server._server.server_state.tasks) == 2)
    if begun:
        whole.close()
        site.settled()
        with stream(site, max_tokens=400) as response:
            lines = response.iter_lines()
            while next(lines) != "event: delta":
                pass
            site.server.stop()
            *_, event, data, empty = list(lines)
        assert (event, empty) == ("event: error", "")
        error = json.loads(data.removeprefix("data: "))["error"]
    else:
        site.server.stop()
        head, _, body = whole.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"retry-after: 1" in head
        error = json.loads(body)["error"]
    assert error["type"] == "unavailable"
    assert "the server is shutting down" in error["message"]
    assert slow.recv(65536).startswith(b"HTTP/1.1 503 ")
    site.settled()
    assert caplog.messages == ["the grace of 0.3 s is over: 2 running requests are ended"]
    assert capfd.readouterr().err == ""  # where uvicorn's own log goes


def test_a_client_that_does_not_listen_does_not_delay_the_end(open_site: Any) -> None:
    site = open_site(http={"grace_seconds": 0.1})
    silent = [site.raw(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 400), site.raw(b"GET /he"), site.raw()]
    until(lambda: len(site.server.connections) == 3)
    begin = time.monotonic()
    site.server.stop()
    until(lambda: not site.server.connections)
    assert time.monotonic() - begin < 5
    for raw in silent:
        raw.close()
