"""Material: the index and the questions that an evaluation of a server asks, from options or the demo's."""

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

QUESTIONS = Path(__file__).parent / "questions" / "python.jsonl"


def add_options(parser: argparse.ArgumentParser, **sizes: str) -> None:
    """Where documents come from and what serves them; `sizes` are the defaults of --device-cache and so on."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--index", type=Path, help="folder of a built index (default: the demo's, built if missing)")
    source.add_argument("--corpus", type=Path, help="docs.jsonl[.gz]; an index is built in a temporary folder")
    parser.add_argument("--embeddings", type=Path, help="vectors of the corpus, instead of embedding it")
    parser.add_argument("--model", default="default")
    parser.add_argument("--max-doc-tokens", type=int, default=100, metavar="N")
    for name, size in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=parse_size, default=size, metavar="SIZE")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the server's engine (0: one a core)")


@contextmanager
def opened(options: argparse.Namespace, name: str) -> Iterator[tuple[Path, Path]]:
    """A temporary folder that is removed in the end, and the index. RetrievalError if there can be none."""
    with TemporaryDirectory(prefix=f"ragcache-{name}-") as folder:
        index = options.index
        if options.corpus is not None:
            index = Path(folder) / "index"
            build_index(options.corpus, index, "flat", Embedder.load(), options.embeddings)
        yield Path(folder), index or demo_index()
