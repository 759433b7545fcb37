"""A served index that is still checked, or found to be damaged: what /readyz and /metrics say, and who is answered."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ragcache.service.service import RagService
from retrieval.index_files import IndexCheck
from tests.retrieval.damage import DATA, cut, flipped, removed, zeroed
from tests.server.conftest import Site, until
from tests.server.faulty import Parts
from tests.server.questions import QUESTIONS
from tests.server.tiered_site import metrics_of


@pytest.fixture
def index(tiny_index: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_index, tmp_path / "index")


@pytest.fixture
def make_service(index: Path, tiny_checkpoint, tiny_model) -> Iterator[Callable[..., RagService]]:
    services: list[RagService] = []

    def make() -> RagService:
        services.append(Parts(index, tiny_checkpoint, tiny_model).service)
        return services[-1]

    yield make
    for service in services:
        service.close()


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Callable[[Site], None]:
    """Every file counts as a large one, and is checked once this is called."""
    start = IndexCheck.start
    monkeypatch.setattr(IndexCheck.__init__, "__defaults__", (0,))
    monkeypatch.setattr(IndexCheck, "start", lambda _: None)

    def begin(site: Site) -> None:
        check: IndexCheck = site.service.finder._retriever.check  # type: ignore[attr-defined]
        start(check)
        assert check.wait(30)

    return begin


def component(site: Site) -> tuple[float, float, float]:
    values = metrics_of(site.http)
    names = ("up", "failures_total", "recoveries_total")
    return tuple(values[f"ragcache_component_{name}", "index"] for name in names)  # type: ignore[return-value]


def test_an_index_that_is_still_checked_is_degraded_and_answers(open_site, begin, index):
    site = open_site()
    ready = site.http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["status"] == "degraded"
    (name, trouble), *others = ready.json()["components"].items()
    assert (name, others, trouble["state"], trouble["failures"]) == ("index", [], "degraded", 0)
    assert str(index / "faiss.idx") in trouble["message"]
    assert site.ask(QUESTIONS[0]).status_code == 200
    assert component(site) == (1, 0, 0)
    begin(site)
    assert site.http.get("/readyz").json() == {"status": "ready"}
    assert component(site) == (1, 0, 0)


@pytest.mark.parametrize("name", ["faiss.idx", DATA])
def test_an_index_found_to_be_damaged_is_served_no_more(open_site, begin, index, name):
    flipped(name, 1 if name == DATA else 0.9)(index)
    site = open_site()
    assert site.http.get("/readyz").status_code == 200
    begin(site)
    for _ in range(2):
        ready = site.http.get("/readyz")
        assert ready.status_code == 503
        assert f"the index failed: {index / name}" in ready.json()["error"]["message"]
        assert "build the index again" in ready.json()["error"]["message"]
        answer = site.ask(QUESTIONS[0])
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "index_damaged"
        assert str(index / name) in answer.json()["error"]["message"]
    assert site.http.get("/healthz").status_code == 200
    assert component(site) == (0, 1, 0)
    assert "search" not in str(site.http.get("/readyz").json())


def test_a_document_damaged_under_a_running_server_is_an_error_and_never_its_end(open_site, index):
    site = open_site()
    assert site.ask(QUESTIONS[0]).status_code == 200
    os.truncate(index / DATA, 4096)
    site.service.finder._retriever.store.part._pages._page.cache_clear()
    answer = site.ask(QUESTIONS[1])
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "index_damaged"
    assert f"{index / DATA}" in answer.json()["error"]["message"]
    until(lambda: site.http.get("/readyz").status_code == 503)
    assert component(site) == (0, 1, 0)


@pytest.mark.full(proof="test_a_damaged_index_is_refused_in_a_line_that_names_the_file")
@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (cut(DATA, 0.5), DATA),
        (zeroed(DATA, 3, 2), DATA),
        (flipped("faiss.idx", 0.5), "faiss.idx"),
        (cut("faiss.idx", 0.5), "faiss.idx"),
        (cut("manifest.json", 0.5), "manifest.json"),
        (removed("faiss.idx"), "faiss.idx"),
    ],
)
def test_serve_refuses_a_damaged_index_in_one_line(index: Path, tiny_folder: Path, damage, name):
    assert_refused(index, damage, name, "serve", "--index", index / "faiss.idx", "--model", tiny_folder, "--port", "0")


@pytest.mark.full(proof="test_a_damaged_index_is_refused_in_a_line_that_names_the_file")
def test_profile_search_does_so_too(index: Path, tmp_path: Path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Why?"}\n')
    options = ["--index", index, "--questions", questions, "--out", tmp_path / "out.json"]
    assert_refused(index, zeroed(DATA, 3, 2), DATA, "profile-search", *options)


def assert_refused(index: Path, damage: Callable[[Path], object], name: str, command: str, *options: object) -> None:
    damage(index)
    done = subprocess.run(
        [sys.executable, "-m", "ragcache", command, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if " info " not in line]  # which says what is loaded
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith(f"ragcache {command}: {index / name}: ")
    assert errors[0].endswith(("build the index again", "build it again"))
