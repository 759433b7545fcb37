"""A desk at which a reader of the documentation works: a folder with the files and commands that the pages name."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ragcache
from tests.docs.pages import ROOT, SCRIPTS, Block

QUESTIONS = {
    "otter": "Why do otters hold hands?",
    "bread": "What makes bread rise?",
    "moon": "Which face has the moon?",
}
PATIENCE = 550  # seconds, for the longest simulation on a busy machine


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("tests.props.live")


@pytest.fixture(scope="session")
def site(tiny_index: Path, tiny_folder: Path) -> Iterator[str]:
    """The URL of a server over the tiny model and index, in this process."""
    settings = {"index": tiny_index / "faiss.idx", "model": str(tiny_folder), "top_k": 2, "max_tokens": 64}
    with ragcache.open_service(**settings, port=0, threads=1) as service:
        yield service.url


class Desk:
    """Runs blocks in its folder. `model` stands in for the default model, `url` for the server on port 8000."""

    def __init__(self, folder: Path, model: Path, url: str | None) -> None:
        self.folder = folder
        self._model = model
        self._url = url

    def run(self, block: Block) -> str:
        """What the block prints on either stream; AssertionError with that if it fails."""
        if block.language == "python":
            name = block.text.partition("\n")[0].removeprefix("# ") if block.text.startswith("# ") else "script.py"
            (self.folder / name).write_text(self._served(block.text), encoding="utf-8")
            command = [sys.executable, name]
        else:
            command = ["sh", "-euc", self._served(block.text)]
        if block.before:
            self._call(["sh", "-euc", block.before], block)
        return self._call(command, block)

    def start(self, block: Block) -> subprocess.Popen[str]:
        """A block that serves until it is ended, started."""
        return subprocess.Popen(
            ["sh", "-euc", "exec " + block.text.strip()],
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _call(self, command: list[str], block: Block) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment(),
            timeout=PATIENCE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{block} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _served(self, text: str) -> str:
        if self._url is not None:
            text = text.replace("localhost:8000", self._url.removeprefix("http://"))
            text = text.replace("http://127.0.0.1:8000", self._url)
        return text

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "DOCS_MODEL": str(self._model), "DOCS_URL": self._url or ""}


# what stands for a command of .venv/bin: the module, the tiny model for the default one, the site for port 8000
WRAPPERS = {
    "ragcache": """case "$1" in
serve) set -- "$@" --model "$DOCS_MODEL" --port 0 --threads 1 ;;
profile) set -- "$@" --model "$DOCS_MODEL" --threads 1 --cached 0,64 --new 16,64 --runs 1 --out profile.json ;;
query) set -- "$@" --url "$DOCS_URL" ;;
esac
exec {python} {script} "$@"
""",
    "pimsim": 'exec {python} {script} "$@"\n',
    "python": 'exec {python} "$@"\n',
}


@pytest.fixture
def desk(tmp_path: Path, tiny_index: Path, tiny_folder: Path, tiny_corpus: Path) -> Desk:
    """Without a server: see `served_desk`."""
    return make_desk(tmp_path, tiny_index, tiny_folder, tiny_corpus, None)


@pytest.fixture
def served_desk(tmp_path: Path, tiny_index: Path, tiny_folder: Path, tiny_corpus: Path, site: str) -> Desk:
    return make_desk(tmp_path, tiny_index, tiny_folder, tiny_corpus, site)


def make_desk(folder: Path, index: Path, model: Path, corpus: Path, url: str | None) -> Desk:
    """Lays out the files that the pages take for granted, and the commands."""
    (folder / "docs.jsonl.gz").write_bytes(gzip.compress(corpus.read_bytes()))
    (folder / "my-index").symlink_to(index)
    (folder / "my-documents").mkdir()
    (folder / "my-documents" / "leave.md").write_text(
        "# Leave\n\nThere are sixteen weeks of leave.\n", encoding="utf-8"
    )
    (folder / "my-documents" / "page.html").write_text("<title>Tea</title><p>Tea is at four.</p>", encoding="utf-8")
    write_lines(
        folder / "questions.jsonl",
        [{"id": name, "question": text, "doc_ids": [name]} for name, text in QUESTIONS.items()],
    )
    names = [f"doc {number}" for number in range(40)]
    paths = [[names[(n * n) % 40], names[(3 * n) % 7]] for n in range(200)]
    write_lines(folder / "trace.jsonl", [{"t": n, "path": path, "sizes": [400, 300]} for n, path in enumerate(paths)])
    (folder / "ragpulse").mkdir()
    write_lines(folder / "ragpulse" / "passages.jsonl", [{"passage_id": n, "token_length": 300 + n} for n in range(40)])
    for name in ("history", "web_search", "user_input"):
        write_lines(folder / "ragpulse" / f"{name}.jsonl", [{f"{name}_id": 0, "token_length": 9}])
    behind = {"history": [0], "web_search": [], "user_input": [0]}
    rows = [
        {
            "timestamp": f"{9 * n}",
            "output_length": 5,
            "hash_ids": {"passages_ids": [n * n % 40, 3 * n % 7], **behind},
        }
        for n in range(200)
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "ragpulse" / "trace.jsonl.gz").write_bytes(gzip.compress(data))
    (folder / "server.toml").write_text('index = "my-index/faiss.idx"\n', encoding="utf-8")
    commands = folder / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, wrapper in WRAPPERS.items():
        script = commands / f"{name}_script.py"  # as pip writes it
        if name in SCRIPTS:
            module, _, function = SCRIPTS[name].partition(":")
            call = f"if __name__ == '__main__':\n    sys.exit({function}())\n"
            script.write_text(f"import sys\n\nfrom {module} import {function}\n\n{call}", encoding="utf-8")
        text = wrapper.format(python=sys.executable, script=script)
        (commands / name).write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
        (commands / name).chmod(0o755)
    return Desk(folder, model, url)


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def run_example(desk: Desk) -> Callable[..., str]:
    """Runs a script of examples/ at the desk, with arguments; what it prints."""

    def run(name: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / name), *arguments],
            cwd=desk.folder,
            timeout=PATIENCE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
