"""Empty lines before a request are passed over, as RFC 9112 (2.2) asks of servers; those within it are not."""

import time

import pytest

from server.connection import Requests
from tests.server.conftest import Site
from tests.server.raw_http import GET, HEAD, QUERY, answer, rest

EMPTY = [b"\r\n", b"\n", b"\r\n" * 3, b"\n\r\n"]


@pytest.mark.parametrize("empty", EMPTY)
def test_empty_lines_before_the_first_request(site: Site, empty: bytes) -> None:
    with site.raw(empty + GET) as raw:
        assert answer(raw)[0] == 200


@pytest.mark.parametrize("empty", EMPTY)
def test_empty_lines_between_requests(site: Site, empty: bytes) -> None:
    """In the piece that ends the request before, as old clients send them behind a body, and in one of their own."""
    with site.raw(HEAD + QUERY) as raw:
        assert answer(raw)[1]["answer"]
        raw.sendall(empty)
        raw.sendall(GET)
        assert answer(raw)[0] == 200
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with site.raw(HEAD + QUERY + empty + GET + empty + last) as raw:
        assert rest(raw).count(b"HTTP/1.1 200 OK") == 3


def test_an_empty_line_that_comes_in_two_pieces(site: Site) -> None:
    with site.raw(GET) as raw:
        assert answer(raw)[0] == 200
        raw.sendall(b"\r\n\r")
        time.sleep(0.05)  # most likely a piece of its own then
        raw.sendall(b"\n" + GET)
        assert answer(raw)[0] == 200


def test_other_blanks_are_no_empty_line(site: Site) -> None:
    for blank in (b" \r\n", b"\r", b"\rG", b"\t", b"\0\r\n"):
        with site.raw(blank + GET) as raw:
            status, body = answer(raw)
            assert (status, body["error"]["type"]) == (400, "malformed_request"), blank


def test_no_number_of_empty_lines_is_kept() -> None:
    requests = Requests()
    for _ in range(3):
        requests.receive_data(b"\r\n" * 40_000)
        requests.next_event()
        assert requests.trailing_data == (b"", False)
