"""The demo's corpus and index: this machine's Python documentation, built once for a set of versions.

The demo is to answer within three minutes on a machine where nothing is installed yet, and the installation takes half
of them. To embed all of a document that the model can read, 256 tokens, would take most of the rest on two cores. But
a docstring says first what its object is for, and a third of its tokens are markup. So the index embeds the first words
of each document, without markup: less than half of the tokens, and four of five questions still find their document
among the first three (`python -m eval.recall`). The documents themselves stay whole: cut into passages they would be
three times as many vectors, and the first words of a docstring are what questions ask for.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import inspect
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from ragcache.console import streams
from ragcache.model.checkpoint import cache_home
from retrieval import docstring, index, pydocs
from retrieval.corpus import Document, write_corpus
from retrieval.docstring import lead
from retrieval.embedder import Embedder
from retrieval.index import build_index
from retrieval.model_folder import DEFAULT_PACKAGE
from retrieval.pydocs import LEAST_WORDS, PACKAGES, collect

# as many as every document of the corpus has at least, markup included, so that each is known by about as much text
EMBEDDED_WORDS = LEAST_WORDS


def demo_index(home: Path | None = None) -> Path:
    """Folder of the demo's index, under the cache folder; builds corpus and index if they are not there yet.

    The folder's name is a digest of what corpus and vectors depend on, so an upgraded package makes another one.
    """
    folder = _folder(home)
    if is_built(home):
        return folder / "index"
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "docs.jsonl.gz"
    if not corpus.is_file():
        print("collecting the documentation of the installed packages (once) ...", file=sys.stderr, flush=True)
        write_corpus(corpus, collect())
    build_index(corpus, folder / "index", "flat", Embedder.load(), passage=embedded_text)
    return folder / "index"


def is_built(home: Path | None = None) -> bool:
    """Whether `demo_index` has nothing to build."""
    return (_folder(home) / "index" / "manifest.json").is_file()


def embedded_text(document: Document) -> str:
    """The text of a document that is embedded: the first EMBEDDED_WORDS of its passage, without markup."""
    return lead(Embedder.passage(document), EMBEDDED_WORDS)


def _folder(home: Path | None) -> Path:
    return (home or cache_home()) / "demo" / _versions()


def _versions() -> str:
    """Digest of the versions of Python, the packages and the embedding model, and of how text is collected and chosen.

    The source of the modules stands for the latter: it may change more often than their results, never less.
    """
    packages = sorted((*PACKAGES, DEFAULT_PACKAGE))
    parts = [platform.python_version(), *(f"{name}={_version(name)}" for name in packages)]
    parts += [inspect.getsource(module) for module in (pydocs, docstring, index)]
    parts += [inspect.getsource(function) for function in (embedded_text, Embedder.passage)]
    parts.append(str(EMBEDDED_WORDS))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """The distributions of each importable package; slow to find out, and constant while a process runs."""
    return metadata.packages_distributions()


def _version(package: str) -> str:
    for distribution in _distributions().get(package, [package]):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "absent"


def main() -> int:
    """Print the folder of the demo's index, which is built first if need be."""
    parser = argparse.ArgumentParser(prog="python -m eval.demo_corpus", description=__doc__)
    parser.parse_args()
    print(demo_index())
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.demo_corpus"))
