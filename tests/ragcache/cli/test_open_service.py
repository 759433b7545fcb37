"""A service in a script's own process: asked by ordinary code, with and without HTTP, and closed whatever happens."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import ragcache
from ragcache.errors import BadQuery, ConfigError, ModelError, RagCacheError
from retrieval.errors import SearchFailed
from server.client import RagClient, ServerError

OTTERS = "Why do otters hold hands?"
SMALL = {"device_cache": 1 << 20, "max_tokens": 6, "threads": 1, "max_doc_tokens": 64}


def threads_of_services() -> set[str]:
    names = ("ragcache-service", "torch-engine", "search", "kv-")
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(names)}


@pytest.fixture
def opened(tiny_index, tiny_folder):
    """Opens services over the tiny model. After the test, none of their threads is left."""
    before = threads_of_services()

    def start(**settings):
        return ragcache.open_service(
            **{"index": tiny_index / "faiss.idx", "model": str(tiny_folder), **SMALL, **settings}
        )

    yield start
    assert threads_of_services() == before


def test_it_answers_from_ordinary_code_and_reuses_kv(opened):
    with opened() as service:
        first, again = service.ask(OTTERS), service.ask(OTTERS)
        assert first.answer == again.answer
        assert first.usage.completion_tokens == 6
        assert first.usage.cached_tokens.device == 0 < again.usage.cached_tokens.device
        assert isinstance(service.service, ragcache.RagService)


def test_a_stream_is_documents_then_text_then_the_answer(opened):
    with opened() as service:
        retrieved, *deltas, answer = service.stream(OTTERS, top_k=1, max_tokens=4)
        assert isinstance(retrieved, ragcache.Retrieved)
        assert all(isinstance(delta, ragcache.Delta) for delta in deltas)
        assert isinstance(answer, ragcache.Answer)
        assert "".join(delta.text for delta in deltas) == answer.answer
        assert retrieved.documents == answer.documents
        assert len(answer.documents) == 1


def test_a_stream_that_is_left_is_cancelled_and_holds_nothing(opened):
    with opened(max_tokens=2000, device_cache=1 << 24) as service:
        events = service.stream(OTTERS, max_tokens=2000)
        next(events)
        events.close()
        wait_until(lambda: service.service.stats.outcomes["cancelled"] == 1)
        wait_until(lambda: service.service.cache.balance().held == 0)


def test_it_serves_http_on_a_free_port_as_well(opened):
    with opened(port=0) as service:
        url = service.url
        assert url.startswith("http://127.0.0.1:")
        with RagClient(url) as client:
            assert client.ask(OTTERS)["answer"] == service.ask(OTTERS).answer
            assert client.get("/readyz") == {"status": "ready"}
    with RagClient(url) as client, pytest.raises(ServerError, match="no answer from"):
        client.ask(OTTERS)


def test_without_a_port_there_is_no_url(opened):
    with opened() as service, pytest.raises(ConfigError, match="not served over HTTP: open it with"):
        _ = service.url


def test_what_the_service_raises_reaches_the_caller(opened):
    with opened() as service:
        with pytest.raises(BadQuery, match="top_k is 99; the corpus has 16 documents"):
            service.ask(OTTERS, top_k=99)
        with pytest.raises(TypeError, match="a question has no option 'topk'; there are top_k, max_tokens"):
            service.ask(OTTERS, topk=1)
        assert service.ask(OTTERS, stop="o").answer.count("o") == 0


@pytest.mark.parametrize(
    ("question", "options", "field"),
    [
        (None, {}, "question"),
        (OTTERS, {"top_k": "2"}, "top_k"),
        (OTTERS, {"stop": 3}, "stop"),
        (OTTERS, {"temperature": "hot"}, "temperature"),
    ],
)
def test_a_question_of_wrong_types_is_refused_by_the_field(opened, question, options, field):
    with opened() as service, pytest.raises(BadQuery, match=f"^{field} must be") as caught:
        service.ask(question, **options)
    assert caught.value.field == field


def test_a_search_that_fails_is_an_error_of_ragcache(opened, monkeypatch):
    def fails(*_):
        raise SearchFailed("the index is gone")

    with opened() as service:
        monkeypatch.setattr("retrieval.retriever.Retriever.search_stages", fails)
        with pytest.raises(RagCacheError, match="the index is gone") as caught:
            service.ask(OTTERS)
        assert isinstance(caught.value.__cause__, SearchFailed)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"top_k": 0}, ConfigError, "top_k must be at least 1, not 0"),
        ({"topk": 1}, ConfigError, "unknown setting 'topk'; known are index, model, top_k"),
        ({"device_cache": "much"}, ConfigError, "'much' is not a size"),
        ({"policy": "best"}, ConfigError, "there is no policy 'best'; known are lru"),
        ({"policy": int}, ConfigError, r"policy builtins:int: int is not a policy, it lacks missed\(\), inserted\(\)"),
        ({"model": "/no/such/model"}, ModelError, "no model at /no/such/model"),
        ({"index": "/no/such/faiss.idx"}, ConfigError, "/no/such"),
        ({"index": None}, ConfigError, "^index is None: give the path of faiss.idx"),
        ({"max_tokens": 8192, "port": 0}, ConfigError, "max_tokens is 8192; the model's context is 8192 tokens"),
    ],
)
def test_what_cannot_be_opened_is_said_and_leaves_nothing(opened, settings, error, message):
    with pytest.raises(error, match=message):
        opened(**settings)


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(opened):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{taken.getsockname()[1]}"),
    ):
        opened(port=taken.getsockname()[1], model="/no/such/model")


def test_after_it_is_closed_it_says_so(opened):
    with opened() as service:
        late = service.stream(OTTERS)
    service.close()  # again: nothing happens
    with pytest.raises(RagCacheError, match="this service is closed: open another"):
        service.ask(OTTERS)
    with pytest.raises(RagCacheError, match="this service is closed: open another"):
        next(late)
    with pytest.raises(RagCacheError, match="this service is closed: open another"):
        _ = service.url
    with pytest.raises(RagCacheError, match="this service is closed: open another"), service:
        pass


def test_closing_ends_an_answer_that_another_thread_waits_for(opened):
    service = opened(max_tokens=4000, device_cache=1 << 25)
    began, ended = threading.Event(), []

    def ask() -> None:
        try:
            for event in service.stream(OTTERS, max_tokens=4000):
                began.set()
                assert not isinstance(event, ragcache.Answer)
        except RagCacheError as error:
            ended.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    assert began.wait(30)
    service.close()
    asking.join(30)
    assert ended == ["this service is closed: open another with ragcache.open_service(...)"]


def test_many_threads_may_ask_at_once(opened):
    with opened() as service:
        answers: list[str] = []
        threads = [threading.Thread(target=lambda: answers.append(service.ask(OTTERS).answer)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(answers) == 6
        assert len(set(answers)) == 1


def test_it_answers_within_a_running_event_loop(opened):
    async def main() -> str:
        with opened() as service:
            return service.ask(OTTERS).answer

    with opened() as service:
        assert asyncio.run(main()) == service.ask(OTTERS).answer


def test_what_is_to_be_on_disk_is_there_when_it_is_closed(opened, tmp_path):
    disk = f"{tmp_path / 'kv'}:64MiB"
    with opened(disk_cache=disk) as service:
        service.ask(OTTERS)
    with opened(disk_cache=disk) as service:
        assert service.ask(OTTERS).usage.cached_tokens.disk > 0


def test_a_policy_of_ones_own_is_used(opened):
    evicting = []

    class Mine(ragcache.POLICIES["arc"]):
        def victim(self):
            evicting.append(1)
            return super().victim()

    with opened(policy=Mine, device_cache=150_000, max_question_tokens=64) as service:
        for question in (OTTERS, "What makes bread rise?", "Why does iron rust?", "How is a violin tuned?"):
            service.ask(question)
    assert evicting


def script(folder: Path, text: str) -> subprocess.Popen[str]:
    (folder / "mine.py").write_text(text)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "mine.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def opening(index: Path, model: Path) -> str:
    return (
        f"ragcache.open_service(index={str(index / 'faiss.idx')!r}, model={str(model)!r}, threads=1, max_tokens=4000)"
    )


@pytest.mark.full(proof="test_closing_ends_an_answer_that_another_thread_waits_for")
def test_ctrl_c_closes_everything(tmp_path, tiny_index, tiny_folder):
    process = script(
        tmp_path,
        f"import ragcache\nwith {opening(tiny_index, tiny_folder)} as service:\n"
        f"    for event in service.stream({OTTERS!r}):\n        print('going', flush=True)\n",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - begin < 15
    assert process.returncode in (1, -signal.SIGINT)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


def test_a_script_that_forgets_to_close_ends_all_the_same(tmp_path, tiny_index, tiny_folder):
    process = script(
        tmp_path,
        f"import ragcache\nservice = {opening(tiny_index, tiny_folder)}\n"
        f"print(service.ask({OTTERS!r}, max_tokens=3).usage.completion_tokens)\n",
    )
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "3\n", "")


@pytest.mark.full(proof="test_it_answers_from_ordinary_code_and_reuses_kv")
@pytest.mark.real
def test_the_default_model_answers_in_five_lines(tiny_index):
    with ragcache.open_service(index=tiny_index / "faiss.idx", max_tokens=12) as service:
        first, again = service.ask("Why do otters hold hands?"), service.ask("Why do otters hold hands?")
    assert first.answer == again.answer
    assert again.usage.cached_tokens.device > 0


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
