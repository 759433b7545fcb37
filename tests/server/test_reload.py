"""An index that is replaced on disk while the server runs: `service.reload`, which SIGHUP calls."""

import asyncio
import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from retrieval.embedder import Embedder
from retrieval.index import build_index
from server.signals import Hangups
from tests.props.live import TOPICS
from tests.props.reopened import Reopened
from tests.server.conftest import PATIENCE, until
from tests.server.questions import OPTIONS
from tests.server.tiered_site import metrics_of

QUESTION = "Why do otters hold hands?"
OTTER = "Otters hold hands in their sleep. This is a newer text about them."


@pytest.fixture(scope="module")
def newer_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny index with another text about otters, without the piano, and with two more documents."""
    folder = tmp_path_factory.mktemp("newer")
    texts = {
        **TOPICS,
        "otter": OTTER,
        "snow": "Snow is white because it scatters light.",
        "tea": "Tea is dried leaves.",
    }
    del texts["piano"]
    rows = [{"id": name, "title": name.capitalize(), "text": text} for name, text in texts.items()]
    corpus = folder / "docs.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    build_index(corpus, folder / "index", "flat", Embedder.load(threads=1), progress=False)
    return folder / "index"


@pytest.fixture
def served(tiny_index: Path, tiny_folder: Path, tmp_path: Path) -> Iterator[Reopened]:
    """A server over a copy of the tiny index in `tmp_path / "index"`."""
    shutil.copytree(tiny_index, tmp_path / "index")
    server = Reopened("--index", str(tmp_path / "index" / "faiss.idx"), "--model", str(tiny_folder), *OPTIONS)
    yield server
    server.end()


def replace_index(folder: Path, newer: Path) -> None:
    """As an operator does: built beside it, then renamed."""
    shutil.copytree(newer, folder / "building")
    (folder / "index").rename(folder / "before")
    (folder / "building").rename(folder / "index")


def ask(client: httpx.Client, question: str = QUESTION, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/query", json={"question": question, "max_tokens": 4, **body})
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_the_documents_are_the_newer_ones_and_kv_of_the_others_stays(
    served: Reopened, newer_index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with served.ready() as client:
        before = ask(client, "What makes a glacier move?", top_k=1)
        assert before["usage"]["cached_tokens"]["device"] == 0
        old_otter = ask(client, top_k=1)
        assert metrics_of(client)["ragcache_index_documents",] == 16
        replace_index(tmp_path, newer_index)
        old = served.service.finder
        served.reload()
        assert client.get("/readyz").json() == {"status": "ready"}
        assert metrics_of(client)["ragcache_index_documents",] == 17
        assert metrics_of(client)["ragcache_index_reloads_total", "done"] == 1
        again = ask(client, "What makes a glacier move?", top_k=1)
        assert again["answer"] == before["answer"]
        assert again["usage"]["cached_tokens"]["device"] > again["usage"]["computed_tokens"]
        otter = ask(client, top_k=1)
        assert otter["documents"][0]["id"] == old_otter["documents"][0]["id"] == "otter"
        assert otter["usage"]["prompt_tokens"] != old_otter["usage"]["prompt_tokens"]
        shared = again["usage"]["cached_tokens"]["device"]
        assert otter["usage"]["cached_tokens"]["device"] < shared  # the words before the documents alone
        assert {document["id"] for document in ask(client, "Is snow white?", top_k=17)["documents"]} >= {"snow", "tea"}
        refused = client.post("/v1/query", json={"question": "Why?", "top_k": 18})
        assert refused.json()["error"]["message"] == "top_k is 18; the corpus has 17 documents"
        until(lambda: old._retriever.store.closed)  # type: ignore[attr-defined]
        assert served.service.finder._retriever.embedder is old._retriever.embedder  # type: ignore[attr-defined]
    assert [line for line in caplog.messages if "reloaded" in line and "17 documents" in line]


def test_a_request_that_runs_ends_on_the_index_that_it_began_with(
    served: Reopened, newer_index: Path, tmp_path: Path
) -> None:
    with served.ready() as client:
        expected = ask(client, max_tokens=8)
        body = {"question": QUESTION, "max_tokens": 8, "stream": True}
        engine = served.service.engine
        step = engine.model.forward  # type: ignore[attr-defined]
        pause = threading.Event()

        def paused(steps: Any) -> Any:
            pause.wait(PATIENCE)
            return step(steps)

        engine.model.forward = paused  # type: ignore[attr-defined]
        old = served.service.finder
        with client.stream("POST", "/v1/query", json=body) as response:
            lines = response.iter_lines()
            assert next(lines) == "event: documents"
            replace_index(tmp_path, newer_index)
            served.reload()
            assert served.service.finder is not old
            assert not old._retriever.store.closed  # type: ignore[attr-defined]
            pause.set()
            rest = list(lines)
        answer = json.loads(rest[-2].removeprefix("data: "))
        assert answer["answer"] == expected["answer"]
        assert answer["documents"] == expected["documents"]
        until(lambda: old._retriever.store.closed)  # type: ignore[attr-defined]


def damage(folder: Path, how: str) -> None:
    if how == "gone":
        shutil.rmtree(folder)
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    elif how == "other vectors":
        (folder / "faiss.idx").write_bytes(b"nothing")
    elif how == "other embedder":
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"embedder_fingerprint": "0123456789abcdef"}))
    else:
        (folder / "documents.lmdb" / "data.mdb").unlink()


def test_an_index_that_cannot_be_opened_leaves_the_one_before(
    served: Reopened, newer_index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index"
    with served.ready() as client:
        before = ask(client)
        served.service._health.steady_seconds = 0.0
        for number, how in enumerate(("gone", "no manifest", "other vectors", "other embedder", "no documents"), 1):
            index.rename(tmp_path / f"before {number}")
            shutil.copytree(newer_index, index)
            damage(index, how)
            caplog.clear()
            served.reload()
            served.reload()
            line, same = [record.message for record in caplog.records if record.name.startswith("ragcache.service")]
            assert line == same
            assert line.startswith("the index was not reloaded, and the one before stays in use: ")
            assert str(tmp_path) in line
            assert "\n" not in line
            body = client.get("/readyz").json()
            assert body["status"] == "degraded"
            assert "the index was not reloaded" in body["components"]["search"]["message"]
            after = ask(client)
            assert (after["answer"], after["documents"]) == (before["answer"], before["documents"]), how
            assert client.get("/readyz").json()["status"] == "degraded"  # a search that works is not a reload that does
            assert metrics_of(client)["ragcache_index_reloads_total", "failed"] == 2 * number
            shutil.rmtree(index, ignore_errors=True)
            (tmp_path / f"before {number}").rename(index)
            served.reload()
            assert client.get("/readyz").json() == {"status": "ready"}
        assert metrics_of(client)["ragcache_index_reloads_total", "done"] == 5


def test_the_end_of_a_server_does_not_wait_for_a_reload(make_service: Callable[..., Any]) -> None:
    """An index of many GB takes minutes to open: what comes of it then is closed."""
    service = make_service()
    opening, opened, closed = threading.Event(), threading.Event(), threading.Event()

    class Bare:
        corpus_size = 1
        index_state = ("ok", "")

        def reopened(self, unwanted: Any) -> Any:
            opening.set()
            opened.wait(PATIENCE)
            assert unwanted()
            return Bare()

        def check(self, question: str) -> None: ...
        def find(self, *arguments: Any) -> Any: ...
        @property
        def tokenizer(self) -> Any: ...
        def close(self) -> None:
            closed.set()

    async def scenario() -> None:
        service._finders.replace(Bare())
        reloading = asyncio.create_task(service.reload())
        await asyncio.to_thread(opening.wait, PATIENCE)
        reloading.cancel()
        await asyncio.wait([reloading])
        assert reloading.cancelled()

    asyncio.run(scenario())  # which joins the loop's own executor
    assert not closed.is_set()
    opened.set()
    assert closed.wait(PATIENCE)


def test_a_service_without_an_index_on_disk_says_so(make_service: Callable[..., Any], caplog: Any) -> None:
    service = make_service()

    class Bare:
        corpus_size = 1

        def close(self) -> None:
            pass

    async def scenario() -> None:
        service._finders.replace(Bare())
        await service.reload()

    asyncio.run(scenario())
    assert "a Bare has no index to open anew" in caplog.text
    assert service.stats.failed_reloads == 1


@pytest.fixture
def sighup() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.usefixtures("sighup")
def test_signals_that_come_during_a_reload_ask_for_one_more_together(caplog: pytest.LogCaptureFixture) -> None:
    hangups = Hangups()
    signal.raise_signal(signal.SIGHUP)  # before it serves: the index may have changed while it was loaded
    child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], stdout=-1)
    assert child.stdout is not None
    assert child.stdout.readline() == b"1\n"
    running, reloads = 0, 0
    caplog.set_level(logging.ERROR)

    async def reload() -> None:
        nonlocal running, reloads
        assert running == 0
        running, reloads = 1, reloads + 1
        for _ in range(5 * (reloads < 3)):
            signal.raise_signal(signal.SIGHUP)
            await asyncio.sleep(0.01)
        running = 0
        if reloads == 1:
            raise ZeroDivisionError("the books burn")

    async def scenario() -> None:
        serving = asyncio.create_task(hangups.serve(reload))
        await asyncio.sleep(0.3)
        assert reloads == 3
        signal.raise_signal(signal.SIGHUP)
        await asyncio.sleep(0.1)
        assert reloads == 4
        serving.cancel()

    asyncio.run(scenario())
    assert caplog.messages == ["a reload failed by an error of the server"]  # and the next one is done nonetheless
    signal.raise_signal(signal.SIGHUP)  # as it ends: not an error
    child.send_signal(signal.SIGHUP)
    with child:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
        child.kill()
