"""`ragcache index`: a vector index and a document store, built from a corpus."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus", type=Path, required=True, metavar="FILE", help="JSON lines with id, text and title; may be .gz"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the index to")
    parser.add_argument(
        "--type",
        choices=("flat", "ivf", "hnsw"),
        default="flat",
        help="flat compares with every vector (exact); ivf and hnsw are approximate, and faster on large corpora "
        "(default: flat)",
    )
    parser.add_argument(
        "--embedder",
        default="default",
        metavar="NAME",
        help="folder or Hugging Face id of the embedding model (default: the one that is installed)",
    )
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE.npy",
        help="use these vectors, an array [documents, dimensions], instead of embedding the texts",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bars")


def run(options: argparse.Namespace) -> int:
    """Builds the index. Raises RetrievalError, which names the line of the corpus, for what cannot be indexed."""
    from retrieval.embedder import Embedder
    from retrieval.index import build_index

    embedder = Embedder.load(options.embedder)
    manifest = build_index(
        options.corpus, options.out, options.type, embedder, options.embeddings, progress=not options.quiet
    )
    print(f"{manifest.documents} documents in {options.out / 'faiss.idx'} ({options.type})")
    return 0
