"""The demo's corpus and index: this machine's Python documentation, built once for a set of versions."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import platform
import sys
from importlib import metadata
from pathlib import Path

from ragcache.model.checkpoint import cache_home
from retrieval import index, pydocs
from retrieval.corpus import write_corpus
from retrieval.embedder import Embedder
from retrieval.index import build_index
from retrieval.pydocs import PACKAGES, collect


def demo_index(home: Path | None = None) -> Path:
    """Folder of the demo's index, under the cache folder; builds corpus and index where they are not there yet.

    The folder's name holds a digest of what the corpus depends on: an upgraded package makes another one.
    """
    folder = (home or cache_home()) / "demo" / _versions()
    if (folder / "index" / "manifest.json").is_file():
        return folder / "index"
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "docs.jsonl.gz"
    if not corpus.is_file():
        print("collecting the documentation of the installed packages (once) ...", file=sys.stderr, flush=True)
        write_corpus(corpus, collect())
    build_index(corpus, folder / "index", "flat", Embedder.load())
    return folder / "index"


def _versions() -> str:
    """Digest of Python's version, the documented packages', and the rules of collecting and indexing."""
    parts = [platform.python_version(), *(f"{name}={_version(name)}" for name in sorted(PACKAGES))]
    parts += [inspect.getsource(module) for module in (pydocs, index)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _version(package: str) -> str:
    for distribution in metadata.packages_distributions().get(package, [package]):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "absent"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.demo_corpus", description=__doc__)
    parser.parse_args()
    print(demo_index())
    return 0


if __name__ == "__main__":
    sys.exit(main())
