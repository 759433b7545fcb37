"""Raw HTTP: requests as bytes, and what a server answers to them over a bare socket."""

import json
import socket
from typing import Any

QUERY = json.dumps({"question": "What is rust?", "max_tokens": 3}).encode()
HEAD = b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
    QUERY
)
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def rest(raw: socket.socket) -> bytes:
    """What comes until the server closes; b"reset" if it resets the connection."""
    received = b""
    try:
        while part := raw.recv(65536):
            received += part
    except ConnectionResetError:
        return received or b"reset"
    return received


def answer(raw: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and body of one answer that has a Content-Length."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = raw.recv(65536)
        assert part, received
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += raw.recv(65536)
    return int(head.split()[1]), json.loads(body)
