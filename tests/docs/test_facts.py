"""What the documentation says of names, files and links is so."""

import asyncio
import importlib.util
import inspect
import os
import pkgutil
import re
import subprocess
import sys

import pytest

import ragcache
from ragcache.policy import POLICIES
from ragcache.service.answer import Timing
from server.metrics import Metrics
from server.schemas import QueryBody
from tests.docs.pages import PAGES, ROOT, inline_code

DOCS = ROOT / "docs"
FOLDERS = ("", "ragcache", "retrieval", "ragcache/engine", "ragcache/policy")
OPTIONS_OF_OTHERS = {"--block-size", "--model"}


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def first_column(text: str) -> list[str]:
    """The code in the first cell of each row of the tables."""
    rows = re.findall(r"^\| (.*?) \|", text, re.M)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.M)
            assert anchor in {slug(heading) for heading in headings}, f"{page.name} links to {target}"


def slug(heading: str) -> str:
    """The anchor that MkDocs and GitHub give a heading."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    for code in inline_code(page):
        if re.fullmatch(r"[\w./-]+(\.py|\.md|\.yaml|/)", code) and "*" not in code and "OUT" not in code:
            if code in NOT_OURS or page.name == "CHANGELOG.md":
                continue
            assert any((ROOT / folder / code).exists() for folder in FOLDERS), f"{page.name} names {code}"


NOT_OURS = {"site/", "medrag/", "ragpulse/", "passages.jsonl", "my_policy.py", "handbook.md"}
# folders under RAGCACHE_HOME, and names in a log
NOT_OURS |= {"demo/", "models/", "numba/", "profiles/", "pimsim.py", "retrieval.py", "server.py"}


def test_every_policy_is_described():
    names = first_column(text_of("policies").split("## Which one?")[0])
    assert names == [*POLICIES, "belady"]


def test_every_name_of_prometheus_is_described(make_service):
    async def text() -> str:
        return Metrics(make_service()).text().decode()

    exposed = set(re.findall(r"^# TYPE (ragcache_\w+)", asyncio.run(text()), re.M))
    exposed = {name for name in exposed if not name.endswith("_created")}
    table = section(text_of("metrics"), "Prometheus")
    described = set(re.findall(r"ragcache_\w+", table))
    assert described == exposed


def test_every_time_is_defined_once():
    names = first_column(section(text_of("metrics"), "Times of one request"))
    assert sorted(names) == sorted(Timing.__slots__)


def test_every_field_of_a_question_is_described():
    assert first_column(section(text_of("http"), "Fields of a question")) == ["question", *FIELDS]


FIELDS = [name for name in QueryBody.model_fields if name != "question"]


def test_every_error_of_http_is_described():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "server").glob("*.py"))
    types = set(re.findall(r'type="(\w+)"', source)) | set(re.findall(r'\d{3},\s+"(\w+)"[,)]', source))
    assert len(types) > 12
    described = set(re.findall(r"`(\w+)`", section(text_of("http"), "Errors")))
    assert types - {"http_error"} <= described


def test_every_name_of_python_is_described():
    missing = [name for name in ragcache.__all__ if not re.search(rf"\b{name}\b", text_of("python"))]
    assert missing == []


def test_what_the_reference_describes_is_there():
    reference = [
        (page, each) for page in sorted(DOCS.glob("*.md")) for each in REFERENCE.findall(page.read_text("utf-8"))
    ]
    assert len(reference) > 20
    for page, (target, members) in reference:
        described = pkgutil.resolve_name(target)
        lacking = [name for name in re.findall(r"\w+", members) if not known(described, name)]
        assert lacking == [], f"{page.name}: {target}"


REFERENCE = re.compile(r"^::: (\S+)(?:\n    options: \{.*?members: \[(.*?)\])?", re.M)


def known(described: object, name: str) -> bool:
    """Whether it has a member of this name; an attribute that `__init__` sets stands in its source."""
    return hasattr(described, name) or f"self.{name}" in inspect.getsource(described)


@pytest.mark.full(proof="test_what_the_reference_describes_is_there")
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the docs extra")
def test_the_site_is_built(tmp_path):
    """What `make docs` does, where a warning is an error."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'id="ragcache.service.answer.Answer"' in (tmp_path / "site" / "python.html").read_text("utf-8")


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("nav:")[1]
    assert set(re.findall(r"[\w-]+\.md", navigation)) == {page.name for page in DOCS.glob("*.md")}
