"""Models of the hub: what its cache has, and how soon it is known that the hub gives nothing. Over real sockets."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from retrieval import hub
from retrieval.hub import HubError, downloaded

NAME = "someone/some-model"
SHA = "0123456789" * 4


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def ends_at(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def refused() -> tuple[str, float]:
    begin = time.monotonic()
    with pytest.raises(HubError) as caught:
        downloaded(NAME)
    return str(caught.value), time.monotonic() - begin


def kept(cache: Path, weights: str = "model.safetensors") -> Path:
    """A model that was downloaded before, as the hub's library lays it out."""
    folder = cache / "models--someone--some-model"
    snapshot = folder / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(SHA)
    (snapshot / "config.json").write_text("{}")
    if weights:
        (snapshot / weights).write_bytes(b"w")
    return snapshot


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port whose connections are never answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def not_found() -> Iterator[int]:
    """A hub that has no model."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"error": "Repository not found"}).encode()
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_hub_that_refuses_connections_is_one_line_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    ends_at(monkeypatch, port)
    message, seconds = refused()
    assert "refused" in message
    assert "\n" not in message
    assert seconds < 3.5
    assert not cache.exists()


@pytest.mark.parametrize("patience", [0.3, hub.PATIENCE_SECONDS])
@pytest.mark.usefixtures("cache")
def test_a_hub_that_never_answers_is_one_line_in_time(
    black_hole: int, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    ends_at(monkeypatch, black_hole)
    monkeypatch.setattr(hub, "PATIENCE_SECONDS", patience)
    message, seconds = refused()
    assert "did not answer" in message or "timed out" in message
    assert seconds < patience + 0.5


@pytest.mark.usefixtures("cache")
def test_a_name_that_takes_for_ever_to_look_up_is_one_line_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(20))
    monkeypatch.setattr(hub, "PATIENCE_SECONDS", 0.3)
    message, seconds = refused()
    assert "did not answer within 0.3 s" in message
    assert seconds < 1


@pytest.mark.usefixtures("cache")
def test_a_model_that_the_hub_does_not_have_is_one_line(not_found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_at(monkeypatch, not_found)
    message, seconds = refused()
    assert "404" in message
    assert "\n" not in message
    assert seconds < 3.5


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_model_in_the_cache_needs_no_hub(
    cache: Path, black_hole: int, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    snapshot = kept(cache, weights)
    ends_at(monkeypatch, black_hole)
    monkeypatch.setattr(hub, "PATIENCE_SECONDS", 0.3)
    assert downloaded(NAME) == snapshot
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    begin = time.monotonic()
    assert downloaded(NAME) == snapshot
    assert time.monotonic() - begin < 0.3  # nobody is asked


def test_a_model_half_in_the_cache_is_none(cache: Path, black_hole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(cache, weights="")
    ends_at(monkeypatch, black_hole)
    monkeypatch.setattr(hub, "PATIENCE_SECONDS", 0.3)
    assert "did not answer" in refused()[0]


@pytest.mark.usefixtures("cache")
def test_without_a_network_by_choice_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message, seconds = refused()
    assert "HF_HUB_OFFLINE is set" in message
    assert seconds < 1
