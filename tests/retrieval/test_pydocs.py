"""The demo corpus: the same on every run, named as people name things, and read back as a corpus."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import retrieval
from retrieval.corpus import Document, read_corpus
from retrieval.errors import CorpusError
from retrieval.pydocs import _text, collect

PACKAGES = ["stdlib", "httpx", "tqdm"]
PROGRAM = """
import sys
import types
from pathlib import Path
{before}
from retrieval.corpus import write_corpus
from retrieval.pydocs import _text, collect
write_corpus(Path(sys.argv[1]), collect(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def stdlib(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Document]:
    """In a process of its own: in this one, all that other tests have imported is looked through, for half a minute."""
    file = tmp_path_factory.mktemp("stdlib") / "docs.jsonl.gz"
    subprocess.run([sys.executable, "-c", PROGRAM.format(before=""), str(file), "stdlib"], check=True)
    return {document.id: document for document in read_corpus(file)}


def test_bytes_do_not_depend_on_process_folder_hashes_or_imports(tmp_path: Path) -> None:
    results = []
    for seed, before in (("1", ""), ("2", "import xml.sax, unittest.mock, httpx, asyncio; unittest.mock.patch")):
        folder = tmp_path / seed
        folder.mkdir()
        # a user's file with the name of a module must not be imported in its place
        (folder / "sched.py").write_text('"""' + "not the library " * 50 + '"""\nprint("imported")')
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(before=before), str(folder / "docs.jsonl.gz"), *PACKAGES],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(retrieval.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        results.append((folder / "docs.jsonl.gz").read_bytes())
    assert results[0] == results[1]
    documents = list(read_corpus(tmp_path / "1" / "docs.jsonl.gz"))
    assert len(documents) > 300
    sched = next(document for document in documents if document.id == "sched")
    assert sched.text.startswith("A generally useful event")


def test_an_address_in_a_docstring_does_not_change_the_document() -> None:
    words = " ".join(["word"] * 60)
    text = _text(types.SimpleNamespace(__doc__=f"default <object object at 0x7f00c0ffee10> {words}"))
    assert text == f"default <object object at 0x...> {words}"


def test_documents_are_named_by_their_public_names(stdlib: dict[str, Document]) -> None:
    for name in ("json.dumps", "heapq", "builtins.str", "concurrent.futures.as_completed", "os.path", "typing.Union"):
        assert stdlib[name].title == name
    for name in ("json.encoder.JSONEncoder", "typing.Text", "posixpath", "_io.open"):
        assert name not in stdlib
    assert stdlib["json.dumps"].extra == {"kind": "function", "package": "stdlib"}
    assert stdlib["argparse.ArgumentParser"].extra["kind"] == "class"
    assert stdlib["heapq"].extra["kind"] == "module"


def test_documents_are_long_enough_sorted_and_different(stdlib: dict[str, Document]) -> None:
    assert list(stdlib) == sorted(stdlib)
    assert all(len(document.text.split()) >= 60 for document in stdlib.values())
    assert len({" ".join(document.text.split()) for document in stdlib.values()}) == len(stdlib)


def test_a_package_documents_only_its_own() -> None:
    documents = collect(["fastapi"])
    assert documents
    assert all(document.id.startswith("fastapi.") and document.extra["package"] == "fastapi" for document in documents)
    assert "fastapi.Request" not in {document.id for document in documents}  # it is starlette's


def test_collecting_is_silent_and_restores_the_path(capfd: pytest.CaptureFixture[str]) -> None:
    path = sys.path[:]
    collect(["tqdm"])
    assert sys.path == path
    assert capfd.readouterr() == ("", "")


def test_a_named_package_must_be_installed() -> None:
    with pytest.raises(CorpusError, match="package 'no_such_package' is not installed"):
        collect(["tqdm", "no_such_package"])
