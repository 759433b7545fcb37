"""Methods that programs other than people's scripts send: HEAD, OPTIONS, and a browser's questions about origins."""

import re
import threading
from typing import Any

import pytest

from ragcache.cli.config import ServeConfig
from ragcache.errors import ConfigError
from tests.server.conftest import Site, until
from tests.server.responses import error_of

READ = ["/healthz", "/readyz", "/metrics", "/v1/cache", "/openapi.json", "/docs"]
ORIGIN = "http://localhost:5173"


def test_head_is_get_without_a_body(site: Site) -> None:
    for path in READ:
        get, head = site.http.get(path), site.http.head(path)
        assert head.status_code == get.status_code == 200, path
        assert head.content == b""
        assert head.headers.keys() == get.headers.keys()
        assert head.headers["content-type"] == get.headers["content-type"]
        if path != "/metrics":  # which counts
            assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.content))


def test_a_connection_goes_on_after_head(site: Site) -> None:
    with site.raw(
        b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ) as raw:
        received = raw.makefile("rb").read()
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.count(b'{"status":"ok"}') == 1


def test_head_of_what_is_not_there(site: Site) -> None:
    missing, wrong = site.http.head("/nothing"), site.http.head("/v1/query")
    assert (missing.status_code, missing.content) == (404, b"")
    assert (wrong.status_code, wrong.content) == (405, b"")
    assert wrong.headers["allow"] == "POST, OPTIONS"


def test_head_says_when_the_server_is_not_ready(site: Site) -> None:
    site.app.state.draining = True
    response = site.http.head("/readyz")
    assert (response.status_code, response.content) == (503, b"")
    assert response.headers["retry-after"] == "1"


def test_options_names_the_methods(site: Site) -> None:
    allowed = dict.fromkeys(READ, "GET, HEAD, OPTIONS")
    allowed |= {"/v1/cache": "GET, HEAD, DELETE, OPTIONS", "/v1/query": "POST, OPTIONS"}
    for path, methods in allowed.items():
        response = site.http.options(path)
        assert (response.status_code, response.content) == (200, b""), path
        assert response.headers["allow"] == methods
        wrong = site.http.request("PATCH", path)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, methods)


def test_options_of_the_files_of_the_page_about_the_api(site: Site) -> None:
    [path] = re.findall(r'src="(/docs/assets/[^"]+\.js)"', site.http.get("/docs").text)
    assert site.http.get(path).status_code == 200
    response, wrong = site.http.options(path), site.http.post(path)
    assert (response.status_code, response.headers["allow"]) == (200, "GET, HEAD, OPTIONS")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_options_of_the_server_and_of_nothing(site: Site) -> None:
    with site.raw(b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as raw:
        head = raw.makefile("rb").read()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"allow: GET, HEAD, POST, DELETE, OPTIONS\r\n" in head
    assert site.http.options("/nothing").status_code == 404


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://127.0.0.1/healthz", 200),
        ("HTTP://elsewhere:80/healthz?x=1", 200),
        ("http://x", 200),
        ("http://x/%6eothing", 404),
        ("ftp://x/healthz", 404),
    ],
)
def test_a_request_for_a_whole_url_is_one_for_its_path(site: Site, target: str, status: int) -> None:
    with site.raw(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()) as raw:
        answer = raw.makefile("rb").read()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert status != 404 or b"://x/nothing" not in answer


def preflight(site: Site, origin: str, method: str = "POST") -> Any:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type, x-request-id",
    }
    return site.http.options("/v1/query", headers=headers)


def test_no_origin_may_ask_unless_it_is_named(site: Site) -> None:
    assert not [name for name in preflight(site, ORIGIN).headers if name.startswith("access-control")]
    response = site.http.get("/healthz", headers={"Origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_an_origin_that_is_named_may_ask_and_read_errors(open_site: Any) -> None:
    site = open_site(cors_origins=(ORIGIN, "https://b.example"))
    for origin in (ORIGIN, "https://b.example"):
        asked = preflight(site, origin)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == origin
        assert "POST" in asked.headers["access-control-allow-methods"]
        allowed = asked.headers["access-control-allow-headers"].lower()
        assert all(name in allowed for name in ("content-type", "x-request-id"))
        for path, status in (("/healthz", 200), ("/nothing", 404), ("/v1/query", 405)):
            response = site.http.get(path, headers={"Origin": origin})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == origin
            assert "X-Request-Id" in response.headers["access-control-expose-headers"]
    too_large = site.http.post("/v1/query", content=b" " * (2 << 20), headers={"Origin": ORIGIN})
    assert (too_large.status_code, too_large.headers["access-control-allow-origin"]) == (413, ORIGIN)
    body = {"question": "What is rust?", "stream": True, "max_tokens": 1}
    stream = site.http.post("/v1/query", json=body, headers={"Origin": ORIGIN})
    assert (stream.status_code, stream.headers["access-control-allow-origin"]) == (200, ORIGIN)
    stranger = site.http.get("/healthz", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers
    refused = preflight(site, "http://evil.example")
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    error = error_of(refused)
    assert error["type"] == "cors_refused"
    assert error["message"].startswith("Disallowed CORS origin; ")
    other = preflight(site, ORIGIN, "TRACE")
    assert error_of(other)["message"].startswith("Disallowed CORS method; ")
    assert other.headers["access-control-allow-origin"] == ORIGIN
    assert "Origin" in other.headers["vary"]


def test_an_error_of_the_server_and_the_end_of_its_grace_can_be_read(open_site: Any, monkeypatch: Any) -> None:
    site = open_site(cors_origins=(ORIGIN,), http={"grace_seconds": 0.2}, step_seconds=0.02, max_tokens=2000)

    def fail() -> None:
        raise RuntimeError("the books burn")

    with monkeypatch.context() as broken:
        broken.setattr(site.service.cache, "report", fail)
        failed = site.http.get("/v1/cache", headers={"Origin": ORIGIN})
    assert (failed.status_code, error_of(failed)["type"]) == (500, "internal_error")
    assert failed.headers["access-control-allow-origin"] == ORIGIN
    answers: list[Any] = []
    body = {"question": "What is rust?", "max_tokens": 2000}
    asking = threading.Thread(
        target=lambda: answers.append(site.http.post("/v1/query", json=body, headers={"Origin": ORIGIN}))
    )
    asking.start()
    until(lambda: site.service.running == 1)
    site.server.stop()
    asking.join()
    assert answers[0].status_code == 503
    assert "the time for running requests is over" in error_of(answers[0])["message"]
    assert answers[0].headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-Id" in answers[0].headers


def test_a_star_lets_all_ask(open_site: Any) -> None:
    site = open_site(cors_origins=("*",))
    assert preflight(site, "http://any.example").headers["access-control-allow-origin"] == "*"
    assert site.http.get("/healthz", headers={"Origin": "null"}).headers["access-control-allow-origin"] == "*"
    plain = site.http.options("/v1/query")  # not a browser's
    assert plain.headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:5173/",
        "localhost:5173",
        "http://a.example/app",
        "http://",
        "",
        "http://u@a.example",
        "*.a.example",
        "http://*.a.example",
        "http://[::1",
        "http://[::g]",
        "http://a.example:port",
        "http://a.example:70000",
        "http://a.exa mple",
        "http://a.example\n",
        "http://a.example?",
        "http://a.example#",
        "http://1.2.3",
        "http://m\u00fcnchen.example",
        "//a.example",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"cors_origin '.*' is not an origin: write \*, or scheme://host:port"):
        ServeConfig.load(None, {"index": "i", "cors_origin": [origin]})


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("HTTP://Example.com", "http://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("https://example.com:443", "https://example.com"),
        ("https://example.com:80", "https://example.com:80"),
        ("http://example.com:", "http://example.com"),
        ("http://localhost:05173", "http://localhost:5173"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://[0:0::1]:8080", "http://[::1]:8080"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ("null", "null"),
        ("*", "*"),
    ],
)
def test_an_origin_is_taken_as_browsers_send_it(given: str, sent: str) -> None:
    assert ServeConfig.load(None, {"index": "i", "cors_origin": [given]}).cors_origin == (sent,)


def test_origins_come_from_options_and_from_a_file(tmp_path: Any) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(f'index = "i"\ncors_origin = ["{ORIGIN}", "https://b.example"]\n')
    assert ServeConfig.load(file, {}).cors_origin == (ORIGIN, "https://b.example")
    assert ServeConfig.load(file, {"cors_origin": ["*"]}).cors_origin == ("*",)
    file.write_text('index = "i"\ncors_origin = "*"\n')
    with pytest.raises(ConfigError, match="cors_origin must be a list of texts, not '\\*'"):
        ServeConfig.load(file, {})
