"""What a person sees who opens the server in a browser: the start, and the API's page, without the internet."""

import re
import shutil
import subprocess
from importlib import metadata

import pytest


def test_the_start_says_what_there_is(site):
    response = site.http.get("/")
    assert response.status_code == 200
    body = response.json()
    assert (body["name"], body["version"], body["docs"]) == ("ragcache", metadata.version("ragcache"), "/docs")
    assert body["routes"]["POST /v1/query"].startswith("Answers a question")
    listed = {(method.lower(), path) for method, path in (route.split(" ", 1) for route in body["routes"])}
    schema = site.http.get("/openapi.json").json()["paths"]
    assert listed == {(method, path) for path, methods in schema.items() for method in methods}
    assert all(body["routes"].values())
    assert site.http.head("/").status_code == 200


def test_the_api_s_page_loads_nothing_from_elsewhere(site):
    page = site.http.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) >= 2
    for source in sources:
        assert source.startswith("/")
        got = site.http.get(source)
        assert got.status_code == 200
        assert len(got.content) > 1000
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert site.http.get("/redoc").status_code == 404


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
def test_a_browser_without_a_network_shows_the_api(site, tmp_path):
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=8000",
        "--dump-dom",
        f"{site.http.base_url}/docs",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
    assert "Answers a question from the documents nearest to it." in shown or "/v1/query" in shown
    assert "opblock-summary" in shown  # drawn by the script
    assert "/v1/cache" in shown
