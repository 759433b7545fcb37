"""Parts of a live server fail for a while: each request has one clear error or one right answer, the server recovers,
and /readyz and /metrics say so."""

import errno
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import lmdb
import pytest

from ragcache.engine.torch.engine import MAX_DEATHS
from ragcache.service.service import RagService
from tests.server.conftest import Site, until
from tests.server.faulty import MakeParts, Parts
from tests.server.questions import QUESTIONS
from tests.server.tiered_site import cache_of, metrics_of, settled

NO_MEMORY = MemoryError("cannot allocate 16 MiB")
BAD_DISK = OSError(errno.EIO, "Input/output error")

# as another error in the same place
OTHER_SEARCH = pytest.mark.full(proof="test_a_search_that_fails_is_one_clear_error_each")
OTHER_HOST = pytest.mark.full(proof="test_a_host_tier_that_fails_costs_time_alone")
OTHER_DISK = pytest.mark.full(proof="test_a_disk_tier_that_fails_costs_time_alone")


@pytest.fixture
def make_parts(tiny_index, tiny_checkpoint, tiny_model) -> Iterator[MakeParts]:
    """Afterwards each service has its memory back and its books in order."""
    opened: list[Parts] = []

    def make(disk: Any = None) -> Parts:
        opened.append(Parts(tiny_index, tiny_checkpoint, tiny_model, disk))
        return opened[-1]

    yield make
    for parts in opened:
        parts.service.close()
        parts.service.cache.check_integrity()
        assert all(tier.balance().held == 0 for tier in parts.service.cache.hierarchy.tiers())


@pytest.fixture
def make_service() -> Callable[..., RagService]:
    """Sites here serve what `make_parts` made."""
    return lambda *, parts: parts.service


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    return {}


@pytest.fixture
def answers(open_site, make_parts, expected) -> dict[str, str]:
    """The answers of a server without a fault, by question; each is asked once."""
    if not expected:
        site = open_site(parts=make_parts())
        for question in QUESTIONS:
            site.http.delete("/v1/cache")
            expected[question] = site.ask(question).json()["answer"]
    return expected


def ready(site: Site) -> dict[str, Any]:
    response = site.http.get("/readyz")
    assert response.status_code == 200
    return dict(response.json())


def counted(site: Site, component: str) -> tuple[float, float, float]:
    """Whether it is up, its failures and recoveries."""
    values = metrics_of(site.http)
    return (
        values["ragcache_component_up", component],
        values["ragcache_component_failures_total", component],
        values["ragcache_component_recoveries_total", component],
    )


def ask_all(site: Site, answers: dict[str, str]) -> None:
    for question in QUESTIONS:
        response = site.ask(question)
        assert response.status_code == 200, response.text
        assert response.json()["answer"] == answers[question]


def balanced(site: Site) -> None:
    """Nothing is held on any tier, nothing is lost, and the recount says so too."""
    body = settled(site.http)
    for tier in body["tiers"].values():
        size = tier["bytes"]
        assert size["held"] == 0
        assert size["free"] + size["cached"] == size["total"]
    until(lambda: cache_of(site.http)["integrity"]["audits"] > 0)
    assert cache_of(site.http)["integrity"]["failed"] == 0


@pytest.mark.parametrize(
    ("part", "method", "error", "reason"),
    [
        (
            "index",
            "search",
            RuntimeError("Error in faiss: bad"),
            "comparing vectors: RuntimeError: Error in faiss: bad",
        ),
        pytest.param(
            "store",
            "get",
            lmdb.CorruptedError("page is damaged"),
            "CorruptedError: page is damaged",
            marks=OTHER_SEARCH,
        ),
        pytest.param("store", "get", BAD_DISK, "OSError: [Errno 5] Input/output error", marks=OTHER_SEARCH),
        pytest.param(
            "embedder",
            "encode",
            NO_MEMORY,
            "embedding the question: MemoryError: cannot allocate 16 MiB",
            marks=OTHER_SEARCH,
        ),
    ],
)
def test_a_search_that_fails_is_one_clear_error_each(open_site, make_parts, answers, part, method, error, reason):
    parts = make_parts()
    site = open_site(parts=parts)
    ask_all(site, answers)
    getattr(parts, part).broken[method] = error
    times = [time.monotonic()]
    for stream in (False, True):
        response = site.ask(QUESTIONS[0], stream=stream)
        times.append(time.monotonic())
        assert response.status_code == 500
        body = response.json()["error"]
        assert body["type"] == "retrieval_failed"
        assert reason in body["message"]
        assert "ask again" in body["message"]
    time.sleep(0.02)
    times.append(time.monotonic())
    body = ready(site)
    assert body["status"] == "degraded"
    assert list(body["components"]) == ["search"]
    trouble = body["components"]["search"]
    assert (trouble["state"], trouble["failures"]) == ("degraded", 2)
    assert reason in trouble["message"]
    # since the first failure, in whole milliseconds
    assert times[-1] - times[1] - 0.001 < trouble["seconds"] < time.monotonic() - times[0] + 0.001
    assert counted(site, "search") == (0, 2, 0)
    getattr(parts, part).broken.clear()
    ask_all(site, answers)
    assert ready(site) == {"status": "ready"}
    assert counted(site, "search") == (1, 2, 1)
    assert metrics_of(site.http)["ragcache_requests_total", "failed"] == 2
    balanced(site)


def test_a_search_that_fails_and_works_in_turns_stays_degraded(open_site, make_parts, caplog):
    parts = make_parts()
    site = open_site(parts=parts, steady=60.0)
    for turn in range(6):
        parts.index.broken["search"] = RuntimeError(f"bad {turn}")
        assert site.ask(QUESTIONS[0]).status_code == 500
        assert "bad" in ready(site)["components"]["search"]["message"]
        parts.index.broken.clear()
        assert site.ask(QUESTIONS[0]).status_code == 200
        body = ready(site)
        assert body["status"] == "degraded"
        assert f"bad {turn}" in body["components"]["search"]["message"]
    assert counted(site, "search") == (0, 6, 0)
    assert len([line for line in caplog.messages if "trouble with the search" in line]) == 1
    assert not [line for line in caplog.messages if "works again" in line]
    balanced(site)


def test_a_question_that_is_refused_is_no_failure_of_the_search(open_site, make_parts):
    site = open_site(parts=make_parts())
    assert site.ask(QUESTIONS[0], top_k=17).status_code == 422
    assert ready(site) == {"status": "ready"}
    assert counted(site, "search") == (1, 0, 0)


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("put", NO_MEMORY),
        pytest.param("put", BAD_DISK, marks=OTHER_HOST),
        pytest.param("load", NO_MEMORY, marks=OTHER_HOST),
    ],
)
def test_a_host_tier_that_fails_costs_time_alone(open_site, make_parts, answers, method, error):
    parts = make_parts()
    site = open_site(parts=parts)
    ask_all(site, answers)  # more than the device holds
    settled(site.http)
    parts.host.broken[method] = error
    ask_all(site, answers)
    settled(site.http)
    failed = cache_of(site.http)["tiers"]["host"]["failures"]
    assert parts.host.raised == failed[type(error).__name__] > 0
    body = ready(site)
    assert body["status"] == "degraded"
    assert list(body["components"]) == ["host"]
    direction = {"put": "device_to_host", "load": "host_to_device"}[method]
    assert body["components"]["host"]["message"] == f"{direction}: {error}"
    assert counted(site, "host") == (0, parts.host.raised, 0)
    parts.host.broken.clear()
    ask_all(site, answers)
    ask_all(site, answers)
    settled(site.http)
    assert ready(site) == {"status": "ready"}
    assert counted(site, "host") == (1, parts.host.raised, 1)
    assert metrics_of(site.http)["ragcache_requests_total", "failed"] == 0
    balanced(site)


@pytest.mark.parametrize(
    ("method", "direction"),
    [
        pytest.param("write", "to_disk", marks=OTHER_DISK),
        ("read", "from_disk"),
        pytest.param("land", "land", marks=OTHER_DISK),
    ],
)
def test_a_disk_tier_that_fails_costs_time_alone(open_site, make_parts, answers, tmp_path, method, direction):
    parts = make_parts(tmp_path / "kv")
    site = open_site(parts=parts)
    if method != "write":
        ask_all(site, answers)
        settled(site.http)
    parts.disk.broken[method] = BAD_DISK
    ask_all(site, answers)
    settled(site.http)
    assert parts.disk.raised == cache_of(site.http)["tiers"]["disk"]["failures"]["OSError"] > 0
    body = ready(site)
    assert body["status"] == "degraded"
    assert body["components"]["disk"]["message"] == f"{direction}: {BAD_DISK}"
    assert counted(site, "disk") == (0, parts.disk.raised, 0)
    parts.disk.broken.clear()
    for _ in range(4):  # after failures, some records are passed over
        ask_all(site, answers)
    settled(site.http)
    assert ready(site) == {"status": "ready"}
    assert counted(site, "disk") == (1, parts.disk.raised, 1)
    assert metrics_of(site.http)["ragcache_requests_total", "failed"] == 0
    balanced(site)


def test_an_engine_whose_steps_fail_is_degraded_until_one_answers(open_site, make_parts, answers):
    parts = make_parts()
    site = open_site(parts=parts)
    parts.model.broken["forward"] = RuntimeError("out of something")
    response = site.ask(QUESTIONS[0])
    assert response.status_code == 500
    assert response.json()["error"] == {
        "type": "engine_failed",
        "message": "the engine failed: RuntimeError: out of something",
    }
    body = ready(site)
    assert body["status"] == "degraded"
    assert body["components"]["engine"]["message"] == "RuntimeError: out of something"
    assert counted(site, "engine") == (0, 2, 0)  # it was tried twice
    parts.model.broken.clear()
    ask_all(site, answers)
    assert ready(site) == {"status": "ready"}
    assert counted(site, "engine") == (1, 2, 1)
    balanced(site)


class Killed(BaseException):
    """What no engine expects of a forward."""


def test_an_engine_whose_thread_dies_once_answers_rightly(open_site, make_parts, answers):
    parts = make_parts()
    site = open_site(parts=parts)
    parts.model.times = 1
    parts.model.broken["forward"] = Killed("by a test")
    ask_all(site, answers)
    assert parts.model.raised == 1
    assert ready(site) == {"status": "ready"}
    assert counted(site, "engine") == (1, 1, 1)
    values = metrics_of(site.http)
    assert values["ragcache_engine_restarts_total",] == values["ragcache_retries_total",] == 1
    assert values["ragcache_requests_total", "failed"] == 0
    balanced(site)


def test_a_server_whose_engine_is_dead_is_not_ready(open_site, make_parts, answers):
    parts = make_parts()
    site = open_site(parts=parts)
    ask_all(site, answers)
    parts.model.broken["forward"] = Killed("by a test")
    for _ in range(MAX_DEATHS):  # more than enough, for each is tried twice
        response = site.ask(QUESTIONS[0])
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "engine_failed"
        assert "the engine's thread died: Killed: by a test" in error_of(response)
    assert parts.model.raised == MAX_DEATHS
    assert "restart the server" in error_of(response)
    response = site.http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "unavailable"
    assert error_of(response) == "the engine failed: the engine's thread died: Killed: by a test"
    assert counted(site, "engine")[::2] == (0, 0)
    assert metrics_of(site.http)["ragcache_engine_restarts_total",] == MAX_DEATHS - 1
    assert site.http.get("/healthz").status_code == 200
    balanced(site)


def error_of(response: httpx.Response) -> str:
    return str(response.json()["error"]["message"])
