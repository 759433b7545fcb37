"""`ragcache corpus`: documents collected into a corpus, a file of JSON lines."""

from __future__ import annotations

import argparse
from pathlib import Path

from retrieval.corpus import write_corpus
from retrieval.pydocs import collect


def add_options(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    purpose = "docstrings of the standard library and of installed packages, those of 60 words or more"
    python = kinds.add_parser("python", help=purpose, description=f"Collect {purpose}.")
    python.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="corpus to write: docs.jsonl, or docs.jsonl.gz"
    )
    python.add_argument(
        "--package",
        action="extend",
        nargs="+",
        metavar="NAME",
        help="collect from these packages only; stdlib is the standard library (default: stdlib and the packages that "
        "ragcache depends on)",
    )


def run(options: argparse.Namespace) -> int:
    """Writes the corpus. Raises RetrievalError for a package that is not installed."""
    documents = collect(options.package)
    write_corpus(options.out, documents)
    print(f"{len(documents)} {'document' if len(documents) == 1 else 'documents'} in {options.out}")
    return 0
