"""IndexOptions: which index, model and questions an evaluation of a server uses; the demo's by default."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from eval.demo_corpus import demo_index
from ragcache.sizes import parse_size
from retrieval.embedder import Embedder
from retrieval.index import build_index

QUESTIONS = Path(__file__).parents[1] / "questions" / "python.jsonl"


def add_index_options(parser: argparse.ArgumentParser, **sizes: str) -> None:
    """Adds the options of `opened_index` and of the server's sizes; `sizes` are defaults, as device_cache="64MiB"."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--index", type=Path, help="folder of a built index (default: the demo's, built if missing)")
    source.add_argument("--corpus", type=Path, help="docs.jsonl[.gz]; an index is built in a temporary folder")
    parser.add_argument("--embeddings", type=Path, help="vectors of the corpus, instead of embedding it")
    parser.add_argument("--model", default="default")
    parser.add_argument("--max-doc-tokens", type=int, default=100, metavar="N")
    for name, size in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=parse_size, default=size, metavar="SIZE")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="torch threads of the server's engine (0: one a core)"
    )


@contextmanager
def opened_index(options: argparse.Namespace, name: str) -> Iterator[tuple[Path, Path]]:
    """Yields a temporary folder, removed afterwards, and the index folder; RetrievalError if it cannot be built."""
    with TemporaryDirectory(prefix=f"ragcache-{name}-") as folder:
        index = options.index
        if options.corpus is not None:
            index = Path(folder) / "index"
            build_index(options.corpus, index, "flat", Embedder.load(), options.embeddings)
        yield Path(folder), index or demo_index()
