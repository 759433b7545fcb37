"""A workload replayed to a running server: what it answers, refuses and leaves unanswered, and how each is reported."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ragcache.cli.main import main
from ragcache.replay.replay import Outcome, Replay
from ragcache.replay.run import replay_remote
from ragcache.replay.workload import TimedRequest, Workload
from server.client import ServerError
from server.remote import RemoteAsker
from tests.server.conftest import Site, until


def requests_of(*requests: tuple[float, int, int | str, int]) -> Workload:
    """By time, number of documents, question and output."""
    return Workload(
        tuple(
            TimedRequest(time, tuple((f"d{number}", 100) for number in range(documents)), question, output)
            for time, documents, question, output in requests
        )
    )


def url_of(site: Site) -> str:
    return "http://{}:{}".format(*site.address)


def outcomes_of(url: str, workload: Workload, timeout_ms: int | None = None) -> list[Outcome]:
    async def run() -> list[Outcome]:
        async with RemoteAsker(url, timeout_ms, timeout_seconds=30) as asker:
            return await Replay(workload, asker).run()

    return asyncio.run(run())


def test_a_replay_over_a_live_server(open_site):
    site = open_site()
    question = "Why do otters hold hands?"
    workload = requests_of((0.0, 2, question, 5), (0.4, 2, question, 5), (0.5, 0, 12, 3))

    async def run() -> Any:
        async with RemoteAsker(url_of(site) + "/", timeout_seconds=30) as asker:
            return await replay_remote(workload, asker, {"url": "here"})

    report = asyncio.run(run())
    first, again, made_up = (outcome.served for outcome in report.outcomes)
    assert first.device_tokens == 0
    assert first.computed_tokens == first.prompt_tokens == again.prompt_tokens
    assert again.device_tokens > 0
    assert again.computed_tokens + again.device_tokens == again.prompt_tokens
    assert [outcome.served.output_tokens for outcome in report.outcomes] == [5, 5, 3]
    assert (first.documents, made_up.documents, first.cached_documents) == (2, 2, None)  # 2 is the server's own number
    for outcome in report.outcomes:
        assert 0 < outcome.served.search < outcome.served.ttft < outcome.served.total < outcome.ended - outcome.arrived
    figures = report.as_dict()
    assert figures["outcomes"] == {"answered": 3}
    assert figures["config"] == {"url": "here"}
    assert figures["hits"]["document_ratio"] is None
    assert figures["hits"]["prefill_seconds_saved"] is None
    assert figures["seconds"] > 0.5
    assert site.service.stats.outcomes["answered"] == 3
    site.settled()


def test_a_made_up_question_is_the_same_every_time_and_as_long_as_asked(open_site):
    site = open_site()
    asked: list[str] = []
    find = site.service.finder.find
    site.service.finder.find = lambda question, *a, **k: (asked.append(question), find(question, *a, **k))[1]
    for _ in range(2):
        outcomes_of(url_of(site), requests_of((0.0, 1, 7, 1), (0.2, 1, 7, 1)))
    assert asked[:2] == asked[2:]
    assert asked[0] != asked[1]
    assert {len(question.split()) for question in asked} == {7}


def test_refusals_are_told_as_what_they_are(open_site):
    site = open_site(max_tokens=8)
    workload = requests_of((0.0, 2, "Why?", 9), (0.0, 17, "Why?", 2), (0.0, 2, "Why?", 8), (0.0, 2, "why " * 2000, 2))
    outcomes = outcomes_of(url_of(site), workload)
    assert [outcome.how for outcome in outcomes] == ["rejected", "rejected", "answered", "rejected"]
    assert outcomes[0].message == "max_tokens is 9; it may be 1 to 8"
    assert outcomes[1].message == "top_k is 17; the corpus has 16 documents"
    assert "question" in outcomes[3].message  # 413


def test_too_many_at_once_and_too_late(open_site):
    site = open_site(max_batch=1, max_waiting=1, step_seconds=0.05)
    outcomes = outcomes_of(url_of(site), requests_of(*[(0.0, 2, "Why?", 8)] * 6))
    assert {outcome.how for outcome in outcomes} == {"answered", "overloaded"}
    site.settled()
    late = outcomes_of(url_of(site), requests_of((0.0, 2, "Why not?", 16)), timeout_ms=200)
    assert [(outcome.how, outcome.message) for outcome in late] == [("expired", "the question's timeout_ms is over")]
    site.settled()


@pytest.fixture
def other_server() -> Iterator[Callable[[int, bytes], tuple[str, list[str]]]]:
    """A server of something else, ready at first: every question gets this status and body. What it was asked."""
    running: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes, ready: int = 200) -> tuple[str, list[str]]:
        asked: list[str] = []

        class Other(BaseHTTPRequestHandler):
            def answer(self, code: int, content: bytes) -> None:
                asked.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self) -> None:
                self.answer(ready, b"{}")

            def do_POST(self) -> None:
                self.answer(status, body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Other)
        running.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}", asked

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (500, b'{"error": {"type": "engine_failed", "message": "it broke"}}', "it broke (HTTP 500)"),
        (503, b'{"error": {"type": "shutting_down", "message": "bye"}}', "bye (HTTP 503)"),
        (200, b"<html>", "is not a ragcache server"),
        (200, b'{"answer": "\xff\xfe"}', "is not a ragcache server"),
        (502, b"Bad Gateway", "is not a ragcache server"),
        (200, b'{"answer": "42"}', "is not a ragcache server, or not of this version"),
        (200, b"[]", "is not a ragcache server, or not of this version"),
        (404, b'{"error": null}', "is not a ragcache server, or not of this version"),
    ],
)
def test_an_answer_that_is_none_is_a_failed_request(other_server, status, body, says):
    url, asked = other_server(status, body)
    outcomes = outcomes_of(url, requests_of((0.0, 1, "Why?", 2), (0.0, 1, "Why?", 2)))
    assert [outcome.how for outcome in outcomes] == ["failed", "failed"]
    assert says in outcomes[0].message
    assert asked == ["/readyz", "/v1/query", "/v1/query"]


def test_a_server_that_is_gone_meanwhile_fails_what_comes_later(open_site):
    site = open_site()
    outcomes: list[Outcome] = []

    async def run() -> None:
        async with RemoteAsker(url_of(site)) as asker:
            asker._http.base_url = "http://127.0.0.1:1"  # where no server listens
            outcomes.extend(await Replay(requests_of((0.0, 1, "Why?", 2)), asker).run())

    asyncio.run(run())
    assert outcomes[0].how == "failed"
    assert "is `ragcache serve` running there?" in outcomes[0].message


def test_nothing_is_sent_to_a_server_that_is_not_ready(other_server):
    url, asked = other_server(200, b"{}", ready=503)
    with pytest.raises(ServerError, match="/readyz answers 503: the server is not ready"):
        outcomes_of(url, requests_of((0.0, 1, "Why?", 2)))
    assert asked == ["/readyz"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1", "no answer from http://127.0.0.1:1"),
        (
            "nonsense",
            "'nonsense' is not the address of a server: it does not begin with http://; write http://HOST:PORT",
        ),
        ("http://127.0.0.1:port", "'http://127.0.0.1:port' is not the address of a server"),
    ],
)
def test_no_server_is_one_clear_error(tmp_path, capsys, url, says):
    requests_of((0.0, 1, "Why?", 2)).write(tmp_path / "w.jsonl")
    assert main(["replay", "--workload", str(tmp_path / "w.jsonl"), "--url", url]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    *notes, line = captured.err.splitlines()
    assert all("finds documents of its own" in note for note in notes)
    assert line.startswith(f"ragcache replay: {says}")


def test_the_command_replays_to_a_server(open_site, tmp_path, capsys):
    site = open_site()
    requests_of((0.0, 2, "Why do otters hold hands?", 4), (5.0, 1, 9, 2)).write(tmp_path / "w.jsonl")
    arguments = ["--workload", str(tmp_path / "w.jsonl"), "--url", url_of(site), "--rate", "20", "--json"]
    assert main(["replay", *arguments, "--trace", str(tmp_path / "t.json")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["outcomes"] == {"answered": 2}
    assert figures["config"]["url"] == url_of(site)
    assert figures["seconds"] < 5
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    until(lambda: site.service.stats.outcomes["answered"] == 2)
