"""The client says in one line what is wrong: no server, another server, or an answer that breaks off."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from server.client import RagClient, ServerError
from server.remote import RemoteAsker


@pytest.fixture
def canned() -> Iterator[Callable[[bytes], str]]:
    """A server that answers every request with the same bytes and hangs up; gives its URL."""
    sockets: list[socket.socket] = []

    def serve(answer: bytes) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def loop() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=loop, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield serve
    for listening in sockets:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def response(body: bytes, kind: str = "text/event-stream", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def test_whole_answers_streams_and_the_cache(site):
    with RagClient(str(site.http.base_url)) as client:
        events = list(client.stream("What is rust?", max_tokens=4, top_k=1, temperature=None))
        assert [name for name, _ in events][:1] == ["documents"]
        assert events[-1][0] == "done"
        answer = client.ask("What is rust?", max_tokens=4, top_k=1)
        assert answer["answer"] == events[-1][1]["answer"]
        assert client.get("/v1/cache")["nodes"] == 2
        assert client.clear_cache()["dropped_nodes"] == 2


def test_a_refusal_is_told_with_its_status(site):
    with RagClient(str(site.http.base_url)) as client:
        with pytest.raises(ServerError, match=r"top_k is 99; the corpus has 16 documents \(HTTP 422\)"):
            client.ask("What is rust?", top_k=99)
        with pytest.raises(ServerError, match="HTTP 404"):
            client.get("/nothing")


@pytest.mark.parametrize("url", ["http://127.0.0.1:port", "http://[::1"])
def test_no_address(url):
    with pytest.raises(ServerError, match=r"is not the address of a server: .*; write http://HOST:PORT"):
        RagClient(url)


@pytest.mark.parametrize("call", ["ask", "get", "clear_cache"])
def test_no_server_there(call):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    arguments = {"ask": ["why?"], "get": ["/healthz"], "clear_cache": []}[call]
    with (
        RagClient(f"http://127.0.0.1:{port}") as client,
        pytest.raises(ServerError, match=rf"no answer from http://127.0.0.1:{port}.*is `ragcache serve` running"),
    ):
        getattr(client, call)(*arguments)


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("127.0.0.1:8000", "it does not begin with http://"),
        ("localhost:8000", "it does not begin with http://"),
        ("ftp://127.0.0.1", "it does not begin with http://"),
        ("//127.0.0.1", "it does not begin with http://"),
        ("", "it does not begin with http://"),
        ("x", "it does not begin with http://"),
        ("http://", "it names no host"),
        ("https:///path", "it names no host"),
        ("http://:80", "it names no host"),
        ("http://a b", "'a b' is not the name of a host"),
        ("http://127.0.0.1:99999", "99999 is not a port"),
        ("http://127.0.0.1:0", "0 is not a port"),
        ("http://[bad", "'[bad' is not the name of a host"),
    ],
)
def test_a_url_that_is_none(url, wrong):
    for client in (RagClient, RemoteAsker):
        with pytest.raises(ServerError) as caught:
            client(url)
        assert str(caught.value).startswith(f"{url!r} is not the address of a server: {wrong}")
        assert str(caught.value).endswith("; write http://HOST:PORT")


def test_a_server_that_speaks_no_https(canned):
    url = canned(response(b"")).replace("http:", "https:")
    with RagClient(url) as client, pytest.raises(ServerError, match=r"speaks no https.*: write http://HOST:PORT"):
        client.ask("why?")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("option", ["temperature", "top_p"])
def test_a_number_that_json_has_no_word_for_is_named(option, value):
    wanted = f"^the question cannot be sent: {option} must be a finite number, not {value}$"
    with RagClient("http://127.0.0.1:9") as client, pytest.raises(ServerError, match=wanted):
        client.ask("why?", **{option: value})


def test_a_question_that_is_no_text(site):
    """As a shell with another encoding than UTF-8 may pass one."""
    with RagClient(str(site.http.base_url)) as client, pytest.raises(ServerError, match=r"surrogate.*HTTP 422"):
        client.ask("\udc80")


DOCUMENTS = b'event: documents\ndata: {"id": "x", "documents": []}\n\n'


@pytest.mark.parametrize(
    "answer",
    [
        response(DOCUMENTS + b'event: delta\ndata: {"text": "half an ans"}\n\n'),
        response(DOCUMENTS),
        response(b""),
        response(b"<html>another server</html>", "text/html"),
    ],
)
def test_a_stream_without_an_end_is_an_error(canned, answer):
    with RagClient(canned(answer)) as client, pytest.raises(ServerError, match="ended its answer early"):
        list(client.stream("why?"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (response(DOCUMENTS)[:-20], "no answer from"),
        (b"", "no answer from"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "no answer from"),
        (response(b"event: done\ndata: not json\n\n"), "not a ragcache server"),
        (response(b"down", "text/html", "502 Bad Gateway"), "HTTP 502"),
        (response(b'{"detail": "no"}', "application/json", "403 Forbidden"), "HTTP 403"),
        (response(b'event: error\ndata: {"error": {"type": "x", "message": "it broke"}}\n\n'), "it broke"),
    ],
)
def test_other_trouble_is_told_in_one_line(canned, answer, message):
    with RagClient(canned(answer)) as client, pytest.raises(ServerError, match=message):
        client.ask("why?")
