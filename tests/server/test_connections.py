"""Clients that do not go on: connections without a request, slow headers and bodies, many at once."""

import asyncio
import errno
import json
import logging
import socket
import threading
import time
from typing import Any

import pytest

from server.connection import Connection, Patience
from server.crowd import Crowd, Member
from server.listener import Listener
from tests.server.conftest import PATIENCE, Site, until
from tests.server.raw_http import GET, HEAD, QUERY, answer, rest

SHORT = Patience(header=0.3, body=0.3, idle=0.3)
LONG = Patience(header=60, body=60, idle=60)


def drip(raw: socket.socket, content: bytes, seconds: float) -> bytes:
    """Sends a byte each `seconds`, until all are sent or the server has closed. What the server has sent by then."""
    raw.settimeout(seconds)
    received = b""
    for number in range(len(content)):
        try:
            raw.sendall(content[number : number + 1])
            part = raw.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            break
        received += part
        if not part:
            break
    return received


@pytest.mark.parametrize("sent", [b"", GET], ids=["never asked", "asked once"])
def test_a_connection_that_asks_nothing_is_closed_without_a_word(open_site: Any, sent: bytes) -> None:
    site = open_site(http={"patience": SHORT})
    with site.raw(sent) as raw:
        begin = time.monotonic()
        if sent:
            assert answer(raw)[0] == 200
        assert rest(raw) == b""
        assert 0.2 < time.monotonic() - begin < 5
    assert site.ask().status_code == 200


def test_a_header_that_ends_early_is_a_408(open_site: Any) -> None:
    site = open_site(http={"patience": Patience(header=0.3, body=60, idle=60)})
    for part in (b"G", b"GET /healthz HTTP/1.1\r\nHost: ", b"POST / HTTP/1.1\r\nX: y\r\n"):
        for before in (b"", GET):  # of the first request, and of a later one
            with site.raw(before) as raw:
                if before:
                    assert answer(raw)[0] == 200
                raw.sendall(part)
                status, body = answer(raw)
                assert (status, body["error"]["type"]) == (408, "request_timeout"), part
                assert body["error"]["message"] == "the header did not come within 0.3 s"
                assert rest(raw) == b""


def test_a_header_byte_by_byte_does_not_win_time(open_site: Any) -> None:
    site = open_site(http={"patience": Patience(header=0.5, body=60, idle=60)})
    with site.raw() as raw:
        begin = time.monotonic()
        received = drip(raw, b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 10_000, 0.02)
        assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert time.monotonic() - begin < 5


def test_a_body_byte_by_byte_does_not_win_time(open_site: Any) -> None:
    site = open_site(http={"patience": Patience(header=60, body=0.5, idle=60)})
    with site.raw(HEAD.replace(b"%d" % len(QUERY), b"10000")) as raw:
        received = drip(raw, b" " * 10_000, 0.02)
        assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"the body did not come within 0.5 s" in received
    until(lambda: not site.service.running + site.service.waiting)
    assert site.service.stats.outcomes.total() == 0  # nothing of it has reached the service


def test_a_chunked_body_byte_by_byte_does_not_win_time(open_site: Any) -> None:
    site = open_site(http={"patience": Patience(header=60, body=0.5, idle=60)})
    with site.raw(HEAD.replace(b"Content-Length: %d" % len(QUERY), b"Transfer-Encoding: chunked")) as raw:
        assert drip(raw, b"1\r\n \r\n" * 1000, 0.02).startswith(b"HTTP/1.1 408 ")


def test_a_slow_body_within_the_time_is_read(open_site: Any) -> None:
    site = open_site(http={"patience": Patience(header=0.3, body=30, idle=0.3)})
    with site.raw(HEAD) as raw:
        for number in range(len(QUERY)):
            raw.sendall(QUERY[number : number + 1])
            time.sleep(0.01)
        assert answer(raw)[0] == 200


def test_the_body_of_a_request_that_is_refused_is_not_awaited_for_ever(open_site: Any) -> None:
    """The answer comes before the body has: the rest of it has the same time."""
    site = open_site(http={"patience": SHORT})
    with site.raw(HEAD.replace(b"%d" % len(QUERY), b"99999999")) as raw:
        assert answer(raw)[0] == 413
        drip(raw, b" " * 1000, 0.02)
        until(lambda: not site.server.connections)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("ending", ["wait", "end", "junk", "expect"])
def test_a_route_that_reads_no_body_answers_without_it(open_site: Any, method: str, ending: str) -> None:
    site = open_site(http={"patience": Patience(header=60, body=0.3, idle=60)})
    length = b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" if ending == "junk" else b"Content-Length: 5\r\n\r\n{"
    if ending == "expect":
        length = b"Expect: 100-continue\r\n" + length
    with site.raw(b"%s /v1/cache HTTP/1.1\r\nHost: x\r\n%s" % (method.encode(), length)) as raw:
        if ending == "end":
            raw.shutdown(socket.SHUT_WR)
        received = rest(raw)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.count(b"HTTP/1.1") == 1
    until(lambda: not site.server.connections)


def test_a_client_that_awaits_100_and_then_sends_nothing_is_told_so(open_site: Any) -> None:
    site = open_site(http={"patience": Patience(header=60, body=0.3, idle=60)})
    with site.raw(HEAD.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue")) as raw:
        received = rest(raw)
    assert received.startswith(b"HTTP/1.1 100 ")
    assert b"HTTP/1.1 408 Request Timeout\r\n" in received


def test_no_time_is_up_while_the_answer_is_computed(open_site: Any) -> None:
    site = open_site(http={"patience": SHORT}, step_seconds=0.1)
    with site.raw(HEAD.replace(b"%d" % len(QUERY), b"%d" % (len(QUERY) + 1)) + QUERY.replace(b"3", b"12")) as raw:
        begin = time.monotonic()
        assert answer(raw)[0] == 200
        assert time.monotonic() - begin > 1.0


def test_requests_in_a_row_on_one_connection_are_all_answered(open_site: Any) -> None:
    site = open_site(http={"patience": SHORT})
    with site.raw(GET * 3 + HEAD + QUERY + GET) as raw:
        assert rest(raw).count(b"HTTP/1.1 200 OK") == 5


def test_a_client_that_does_not_read_its_answer_is_let_go(open_site: Any) -> None:
    site = open_site(http={"patience": Patience(header=60, body=0.5, idle=60)})
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        raw.connect(site.address)
        raw.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 3000)
        until(lambda: len(site.server.connections) == 1)
        until(lambda: not site.server.connections)


@pytest.mark.parametrize("end", ["idle", "stop", "hang up", "half-closed"])
def test_a_few_bytes_that_a_client_does_not_read_keep_no_connection(open_site: Any, end: str) -> None:
    """Its answer is complete, as far as the server knows, and the connection to be closed."""
    idle = 0.3 if end == "idle" else 60
    site = open_site(http={"patience": Patience(header=60, body=0.5, idle=idle), "grace_seconds": PATIENCE})
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        raw.connect(site.address)
        until(lambda: len(site.server.connections) == 1)
        (connection,) = site.server.connections
        assert isinstance(connection, Connection)
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024)
        raw.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
        if end == "half-closed":
            raw.shutdown(socket.SHUT_WR)
        until(lambda: connection.cycle is not None and connection.cycle.response_complete)
        assert 0 < connection.transport.get_write_buffer_size() < 65536
        begin = time.monotonic()
        if end == "stop":
            site.server.stop()
        elif end == "hang up":
            raw.shutdown(socket.SHUT_WR)
        until(lambda: not site.server.connections)
        assert time.monotonic() - begin < 5


def test_an_answer_that_is_read_slowly_is_sent_whole(open_site: Any) -> None:
    """Time counts for what is not taken, not for the whole answer."""
    site = open_site(http={"patience": Patience(header=60, body=0.5, idle=0.2)})
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        raw.connect(site.address)
        until(lambda: len(site.server.connections) == 1)
        (connection,) = site.server.connections
        assert isinstance(connection, Connection)
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024)
        asked = 8
        raw.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
        received = b""
        while part := raw.recv(2048):
            received += part
            time.sleep(0.01)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == asked


NOT_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,  # TLS
    b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    HEAD.replace(b"Content-Length: %d" % len(QUERY), b"Transfer-Encoding: chunked") + b"zz\r\n",
]


def test_what_is_not_http_is_a_400_and_no_line_of_the_log(capfd: pytest.CaptureFixture[str], site: Site) -> None:
    for sent in NOT_HTTP:
        with site.raw(sent) as raw:
            received = rest(raw)
        if received != b"reset":  # where it came too soon for the rest of what was sent
            assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n"), sent[:50]
            assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["type"] == "malformed_request"
    assert site.ask().status_code == 200
    assert capfd.readouterr().err == ""


def test_at_the_limit_those_that_wait_longest_make_room(open_site: Any, caplog: pytest.LogCaptureFixture) -> None:
    site = open_site(http={"patience": LONG, "max_connections": 4}, step_seconds=0.01, max_tokens=200)
    with site.raw(HEAD.replace(b"%d" % len(QUERY), b"%d" % (len(QUERY) + 2)) + QUERY.replace(b"3", b"200")) as busy:
        until(lambda: site.service.running == 1)
        idle = [site.raw(b"G" * (number % 2)) for number in range(20)]
        assert site.http.get("/healthz").status_code == 200
        assert {rest(raw) for raw in idle[:16]} <= {b"", b"reset"}
        assert len(site.server.connections) == 4
        assert answer(busy)[0] == 200
        for raw in idle:
            raw.close()
    lines = [record.message for record in caplog.records if record.name == "server.crowd"]
    assert lines == [
        "4 connections are open, the limit (--max-connections): those that wait longest for their clients are closed "
        "to make room"
    ]


def test_connections_that_are_kept_between_requests_make_room_too(open_site: Any) -> None:
    site = open_site(http={"patience": LONG, "max_connections": 4})
    kept = []
    for _ in range(12):
        kept.append(site.raw(GET))
        assert answer(kept[-1])[0] == 200
    assert {rest(raw) for raw in kept[:8]} <= {b"", b"reset"}
    kept[-1].sendall(GET)
    assert answer(kept[-1])[0] == 200  # the newest stay
    for raw in kept:
        raw.close()


def test_at_the_limit_where_all_are_answered_the_next_is_told_so(open_site: Any) -> None:
    site = open_site(http={"patience": LONG, "max_connections": 2}, step_seconds=0.01, max_tokens=200)
    body = {"question": "What is rust?", "max_tokens": 200}
    busy = [site.connect(body), site.connect(body)]
    until(lambda: site.service.running == 2)
    with site.raw() as raw:
        status, refusal = answer(raw)
        assert (status, refusal["error"]["type"]) == (503, "unavailable")
        assert rest(raw) == b""
    assert [answer(raw)[0] for raw in busy] == [200, 200]
    assert site.http.get("/healthz").status_code == 200


class Starving(socket.socket):
    """A listening socket whose `accept` fails `times` times."""

    times = 0

    def accept(self) -> Any:
        if self.times > 0:
            Starving.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@pytest.mark.parametrize("idle", [0, 2])
def test_no_file_left_is_said_once_and_tried_again_later(idle: int, caplog: pytest.LogCaptureFixture) -> None:
    """asyncio's own server tries again 2,048 times at once, with a traceback each."""
    members: set[Member] = set()

    class Idle:
        waiting_since: float | None = 1.0

        def shed(self) -> None:
            members.remove(self)

    async def scenario() -> None:
        with Starving() as bound:
            bound.bind(("127.0.0.1", 0))
            bound.listen()
            Starving.times = 5
            members.update(Idle() for _ in range(idle))
            made: list[asyncio.Protocol] = []

            def make() -> asyncio.Protocol:
                made.append(asyncio.Protocol())
                return made[-1]

            listener = Listener(bound, make, Crowd(members, 10).starved)
            with socket.create_connection(bound.getsockname()):
                while not made:
                    await asyncio.sleep(0.01)
            listener.close()
            await listener.wait_closed()

    begin = time.monotonic()
    asyncio.run(scenario())
    assert not members  # an idle connection's file is used at once; without one, each wait is twice as long
    assert time.monotonic() - begin > 0.02 * sum(2**number for number in range(5 - idle))
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (
            logging.WARNING,
            f"cannot accept connections: Too many open files; {idle} are open: those that wait longest for their "
            "clients are closed to make room",
        )
    ]


@pytest.mark.parametrize("origins", [("*",), ("http://one.example",), ("http://one.example", "http://two.example"), ()])
def test_what_is_refused_before_its_header_is_known_has_an_id_and_what_a_script_needs(
    open_site: Any, origins: tuple[str, ...]
) -> None:
    patience = Patience(header=0.3, body=60, idle=60)
    site = open_site(cors_origins=origins, http={"patience": patience, "max_connections": 1}, step_seconds=0.01)
    ids = []
    for sent, status in ((b"GET /", 408), (b"junk\r\n\r\n", 400), (b"", 503)):
        busy = site.connect({"question": "What is rust?", "max_tokens": 16}) if status == 503 else None
        if busy is not None:
            until(lambda: site.service.running == 1)
        with site.raw(sent) as raw:
            head = rest(raw).partition(b"\r\n\r\n")[0].decode()
        assert int(head.split()[1]) == status
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
        ids.append(headers["x-request-id"])
        allowed = headers.get("access-control-allow-origin")
        assert allowed == (origins[0] if len(origins) == 1 else None)
        assert ("access-control-expose-headers" in headers) is (allowed is not None)
        if busy is not None:
            assert answer(busy)[0] == 200
            busy.close()
        until(lambda: not site.server.connections)
    assert len(set(ids)) == 3


def test_many_slow_clients_at_once_keep_nobody_waiting(open_site: Any) -> None:
    site = open_site(http={"patience": LONG, "max_connections": 50})
    slow = [site.raw((b"", b"GET /", HEAD, HEAD + b"{")[number % 4]) for number in range(200)]
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(site.ask(max_tokens=2).status_code)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8
    for raw in slow:
        raw.close()
