"""`ragcache query` as a process, on a real terminal and in real pipes, before a server that sends what it likes."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.props.terminal import PATIENCE, on_terminal

ROOT = Path(__file__).parents[3]
TITLE = "Manual\x1b]0;OWNED\x07\x1b[2J\nfrom:   Forged\u202e"
PIECES = ["Grüße \x1b", "[2J", "\x1b]52;c;", "ZWNobw==\x07", "\x9b31m", "\rfrom: x", "\tend\n", "half \ud83d"]
WANTED = "Grüße \\x1b[2J\\x1b]52;c;ZWNobw==\\x07\\x9b31m\\rfrom: x\tend\nhalf \\ud83d"


class Desk(http.server.ThreadingHTTPServer):
    """A server that answers each question with these events, the answer behind `go_on`."""

    go_on: threading.Event
    events: list[tuple[str, dict[str, Any]]]
    error = ""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Desk

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.server.error:
            body = json.dumps({"error": {"type": "invalid_request", "message": self.server.error}}).encode()
            self.send_response(422)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            for name, data in self.server.events:
                if name != "documents":
                    self.server.go_on.wait(PATIENCE)
                self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
        except BrokenPipeError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Desk(("127.0.0.1", 0), Handler) as server:
        server.go_on = threading.Event()
        server.go_on.set()
        documents = [
            {"id": "e", "title": TITLE, "score": 1.0, "truncated": True},
            {"id": "i\x1b[2J", "title": "", "score": 1.0, "truncated": False},
        ]
        usage = {"prompt_tokens": 9, "computed_tokens": 2, "cached_tokens": {"device": 7, "host": 0, "disk": 0}}
        done = {"documents": documents, "usage": usage, "timing": {"ttft_ms": 1.0, "total_ms": 2.0}}
        server.events = [("documents", {"documents": documents})]
        server.events += [("delta", {"text": text}) for text in PIECES]
        server.events += [("done", done)]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


def command(desk: Desk) -> list[str]:
    url = f"http://127.0.0.1:{desk.server_address[1]}"
    return [sys.executable, "-m", "ragcache", "query", "toner?", "--url", url]


SOURCES = r"from:   Manual\x1b]0;OWNED\x07\x1b[2J\nfrom:   Forged\u202e (cut short), i\x1b[2J"


def test_a_terminal_shows_what_documents_and_models_wrote_and_obeys_none_of_it(desk: Desk) -> None:
    shown = on_terminal(command(desk)).decode()
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)
    assert SOURCES in shown
    assert WANTED.replace("\n", "\r\n") in shown
    assert shown.count("\nfrom:") == 0  # the first line alone begins so


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_pipes_get_the_same_in_any_encoding(desk: Desk, encoding: str) -> None:
    done = subprocess.run(
        command(desk), capture_output=True, timeout=PATIENCE, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0, done.stderr
    greeting = "Gr\\xfc\\xdfe" if encoding == "ascii" else "Grüße"
    assert done.stdout.decode(encoding) == WANTED.replace("Grüße", greeting) + "\n"
    assert done.stderr.decode(encoding).startswith(SOURCES + "\n")
    assert b"prompt: 9 tokens, 7 from the cache, 2 computed" in done.stderr


def test_sources_are_there_before_the_answer(desk: Desk) -> None:
    desk.go_on.clear()
    process = subprocess.Popen(command(desk), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stderr is not None
    assert process.stderr.readline().decode().startswith("from:   Manual")
    desk.go_on.set()
    out, _ = process.communicate(timeout=PATIENCE)
    assert out.decode().startswith("Grüße")
    assert process.returncode == 0


def test_a_reader_that_goes_ends_it_without_a_word(desk: Desk) -> None:
    desk.events[1:1] = [("delta", {"text": "line\n"})] * 2000
    process = subprocess.Popen(command(desk), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    left = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(PATIENCE) == 141
    assert left.splitlines() == [SOURCES, ""]


def test_what_a_server_says_is_wrong_is_one_line(desk: Desk) -> None:
    desk.error = "no document \x1b[2J\nragcache query: all is well"
    done = subprocess.run(command(desk), capture_output=True, timeout=PATIENCE, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr == b"ragcache query: no document \\x1b[2J\\nragcache query: all is well (HTTP 422)\n"


def test_passages_of_one_document_are_named_once(desk: Desk) -> None:
    passage = {"title": "", "source": "book.pdf", "score": 1.0, "truncated": False}
    bees = {"id": "d1", "title": "Bees", "source": "d1", "score": 1.0, "truncated": False}
    desk.events[0] = ("documents", {"documents": [passage | {"id": "#4"}, bees, passage | {"id": "#5"}]})
    done = subprocess.run(command(desk), capture_output=True, timeout=PATIENCE, cwd=ROOT)
    assert done.stderr.startswith(b"from:   book.pdf, Bees\n")
