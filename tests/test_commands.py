"""`ragcache corpus` and `ragcache index` as a person runs them: real files, and processes where these matter."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragcache.cli.main import main
from retrieval.store import DocumentStore

COMMAND = [sys.executable, "-m", "ragcache"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`run` in this process, which has imported and loaded most of it."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        status = main(list(map(str, arguments)))
        return subprocess.CompletedProcess([], status, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)


def write_rows(path: Path, count: int) -> Path:
    rows = (
        {"id": f"doc-{number}", "title": f"Title {number}", "text": f"Text number {number}. " * 60}
        for number in range(count)
    )
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def test_a_corpus_of_docstrings_is_indexed(tmp_path: Path, run_here: Callable[..., Any]) -> None:
    collected = run_here("corpus", "python", "--out", tmp_path / "docs.jsonl.gz", "--package", "json", "csv")
    assert collected.returncode == 0, collected.stderr
    indexed = run_here("index", "--corpus", tmp_path / "docs.jsonl.gz", "--out", tmp_path / "index", "--type", "hnsw")
    assert indexed.returncode == 0, indexed.stderr
    count = int(collected.stdout.split()[0])
    assert count >= 5
    assert indexed.stdout.startswith(f"{count} documents in {tmp_path / 'index' / 'faiss.idx'}")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    cut = re.search(r"(\d+) of \d+ (?:is|are) longer than 256 tokens and cut: (\d+) passages", indexed.stdout)
    assert cut is not None
    assert 0 < int(cut[1]) <= count < int(cut[2]) == manifest["documents"]
    assert "embedding" in indexed.stderr  # the progress bar


def test_given_embeddings_are_used(tmp_path: Path, run_here: Callable[..., Any]) -> None:
    corpus = write_rows(tmp_path / "docs.jsonl.gz", 12)
    vectors = np.random.default_rng(0).normal(size=(12, 384)).astype(np.float16)
    np.save(tmp_path / "vectors.npy", vectors)
    embeddings = ["--embeddings", tmp_path / "vectors.npy"]
    with pytest.warns(UserWarning, match="do not look like"):  # random vectors are not this embedder's
        done = run_here("index", "--corpus", corpus, "--out", tmp_path / "i", *embeddings, "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "i" / "manifest.json").read_text())["embeddings"] == "given"


def test_a_wrong_row_is_one_line_on_stderr(tmp_path: Path, run_here: Callable[..., Any]) -> None:
    (tmp_path / "docs.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b"}\n')
    done = run_here("index", "--corpus", tmp_path / "docs.jsonl", "--out", tmp_path / "index", "--quiet", "--strict")
    assert done.returncode == 1
    assert done.stderr.startswith(f"ragcache index: {tmp_path / 'docs.jsonl'}:2: 'text' is missing")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["docs.jsonl"]


HANDBOOK = "The leave policy grants sixteen weeks. " + "Words go on and on. " * 8000 + "The secret code is 4711."


@pytest.mark.full(proof="test_whole_documents_are_counted")
def test_a_long_document_is_cut_or_said_to_be_long(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "note.txt").write_text("City 7 stores crates of product 7.")
    (folder / "handbook.md").write_text(f"# Handbook\n\n{HANDBOOK}")
    (folder / "photo.png").write_bytes(b"\x89PNG")
    whole = run("index", "--corpus", folder, "--out", tmp_path / "whole", "--quiet", "--whole")
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout == f"2 documents in {tmp_path / 'whole' / 'faiss.idx'} (flat)\n"
    assert f"skipped {folder / 'photo.png'}: .png files are not read" in whole.stderr
    assert "1 file or row could not be read: see above" in whole.stderr
    assert "warning: 1 of 2 is longer than 256 tokens, which the embedder reads" in whole.stderr
    assert "1 is longer than 1024 tokens" in whole.stderr
    strict = run("index", "--corpus", folder, "--out", tmp_path / "strict", "--strict")
    assert strict.returncode == 1
    assert strict.stderr.startswith(f"ragcache index: {folder / 'photo.png'}: .png files are not read")
    assert not (tmp_path / "strict").exists()


@pytest.mark.full(proof="test_the_encoding_can_be_given")
def test_columns_encodings_and_sizes_are_options(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("key;body\n1;" + "caf\u00e9 in the morning. " * 30, encoding="latin-1")
    options = ["--text-field", "body", "--id-field", "key", "--encoding", "latin-1", "--quiet"]
    sizes = ["--passage-tokens", "64", "--overlap", "16"]
    done = run("index", "--corpus", tmp_path / "rows.csv", "--out", tmp_path / "index", *options, *sizes)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 is longer than 64 tokens and cut: 3 passages in all" in done.stdout
    with DocumentStore.open(tmp_path / "index" / "documents.lmdb") as store:
        assert [store.get(row).id for row in range(len(store))] == ["1#1", "1#2", "1#3"]
        assert store.get(0).text.startswith("café in the morning.")
    wrong = run("index", "--corpus", tmp_path / "rows.csv", "--out", tmp_path / "i", "--whole", "--overlap", "3")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("ragcache index: --overlap does not go with --whole")
    unknown = run("index", "--corpus", tmp_path / "rows.csv", "--out", tmp_path / "i", "--encoding", "klingon")
    assert unknown.returncode == 2
    assert "'klingon' is not an encoding" in unknown.stderr


def test_an_unknown_package_is_named(tmp_path: Path, run_here: Callable[..., Any]) -> None:
    done = run_here("corpus", "python", "--out", tmp_path / "docs.jsonl", "--package", "no_such_package")
    assert done.returncode == 1
    assert "'no_such_package' is not installed" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full(proof="test_a_signal_amid_the_replacement_loses_no_index")
def test_sigterm_leaves_nothing_half_written(tmp_path: Path) -> None:
    corpus = write_rows(tmp_path / "docs.jsonl.gz", 3000)
    process = subprocess.Popen(
        [*COMMAND, "index", "--corpus", str(corpus), "--out", str(tmp_path / "index")], stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".index.building-*/*")):
        assert time.monotonic() < deadline, "nothing is built"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["docs.jsonl.gz"]


def test_vllm_where_it_is_not_installed_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text("import sys\nsys.modules['vllm'] = None\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "without"), *sys.path])}
    command = [*COMMAND, "serve", "--engine", "vllm", "--index", str(tmp_path / "faiss.idx"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 1
    loading, said = done.stderr.splitlines()
    assert "loading" in loading
    assert said == (
        "ragcache serve: --engine vllm: vLLM is not installed: run `make setup-vllm` (for a GPU with GPU=1) and use "
        ".venv-vllm/bin/ragcache"
    )
