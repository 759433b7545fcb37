"""Long headers: one limit for the whole of a header, in however many pieces it comes, and an error that says so."""

import json
import re
import time
from typing import Any

import pytest

from server.connection import LONGEST_HEADER
from tests.server.conftest import Site, until
from tests.server.raw_http import GET, HEAD, QUERY, answer, rest

LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
BEGINS = {
    "a field": LAST + b"Cookie: ",
    "many fields": LAST + b"Cookie: c\r\n" * 3000 + b"Cookie: ",
    "the target": b"GET /healthz?",
}


def header(kind: str, length: int) -> bytes:
    """A whole header of that many bytes."""
    end = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" if kind == "the target" else b"\r\n\r\n"
    return BEGINS[kind] + b"c" * (length - len(BEGINS[kind]) - len(end)) + end


def send(site: Site, sent: bytes, piece: int) -> Any:
    raw = site.raw()
    for first in range(0, len(sent), piece):
        try:
            raw.sendall(sent[first : first + piece])
        except OSError:  # refused already
            break
        time.sleep(0.002)
    return raw


@pytest.mark.parametrize("kind", BEGINS)
@pytest.mark.parametrize("before", [b"", GET])
def test_the_length_of_a_header_counts_and_not_its_pieces(site: Site, kind: str, before: bytes) -> None:
    for piece in (7_000, 60_000, 1_000_000):
        for length, status in ((LONGEST_HEADER, b"200"), (LONGEST_HEADER + 1, b"431")):
            with send(site, before + header(kind, length), piece) as raw:
                received = rest(raw)
            assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200"] * bool(before) + [status], piece
        error = json.loads(received.rpartition(b"\r\n\r\n")[2])["error"]
        assert error == {
            "type": "header_too_long",
            "message": "the request line and the header have more than 65536 bytes",
        }


def test_a_header_without_an_end_is_refused_at_the_limit(site: Site) -> None:
    with send(site, header("a field", LONGEST_HEADER + 100)[:-4], 60_000) as raw:
        assert answer(raw)[0] == 431


@pytest.mark.parametrize("piece", [7_000, 1_000_000])
def test_a_body_is_not_held_against_the_header(site: Site, piece: int) -> None:
    body = QUERY + b" " * 200_000
    with send(site, HEAD.replace(b"%d" % len(QUERY), b"%d" % len(body)) + body, piece) as raw:
        assert answer(raw)[0] == 200


CHUNKED = HEAD.replace(b"Content-Length: %d" % len(QUERY), b"Transfer-Encoding: chunked")


@pytest.mark.parametrize("between", [b"1;" + b"x" * 100_000, b"0\r\nX: " + b"x" * 100_000])
def test_what_stands_between_chunks_has_the_same_limit(site: Site, between: bytes) -> None:
    with send(site, CHUNKED + between, 30_000) as raw:
        status, body = answer(raw)
        assert (status, body["error"]["type"]) == (431, "header_too_long")
        assert body["error"]["message"].startswith("a line between the body's chunks, or the trailer, has more than")
    until(lambda: not site.server.connections)
    assert site.service.stats.outcomes.total() == 0


@pytest.mark.parametrize("encodings", [b"gzip, chunked", b"identity", b"chunked\r\nTransfer-Encoding: chunked"])
def test_a_transfer_encoding_that_is_not_known_is_named(site: Site, encodings: bytes) -> None:
    with site.raw(CHUNKED.replace(b"chunked", encodings) + b"0\r\n\r\n") as raw:
        status, body = answer(raw)
    assert (status, body["error"]["type"]) == (501, "wrong_transfer_encoding")
    assert body["error"]["message"] == "the only Transfer-Encoding that is read is chunked, by itself"
