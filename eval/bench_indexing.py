"""Indexing in figures: documents a second and peak memory of `ragcache index`, in a process of its own."""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eval.props.index_options import QUESTIONS
from eval.props.question_set import read_questions
from ragcache.console import streams
from retrieval.corpus import Document, write_corpus
from retrieval.embedder import DEFAULT_NAME
from retrieval.index import Manifest

SEED = 1


def made_up(count: int, characters: int) -> Iterator[Document]:
    """Documents of exactly this many characters: sentences and paragraphs of English words, drawn with a seed."""
    rng = random.Random(SEED)
    questions = " ".join(question.text for question in read_questions(QUESTIONS))
    words = sorted(set(re.findall("[a-z]+", questions.lower())))
    for number in range(count):
        text = ""
        while len(text) < characters:
            sentence = " ".join(rng.choices(words, k=rng.randint(6, 20))).capitalize()
            text += sentence + rng.choice([". ", ". ", ". ", ".\n\n"])
        yield Document(f"doc-{number}", f"Document {number}", text[: characters - 1] + ".")


def measure(count: int, characters: int, options: Sequence[str]) -> dict[str, Any]:
    """The report of one run of `ragcache index` with these options; CalledProcessError if it fails."""
    with TemporaryDirectory(prefix="ragcache-bench-indexing-") as folder:
        corpus, index = Path(folder) / "docs.jsonl", Path(folder) / "index"
        write_corpus(corpus, made_up(count, characters))
        command = [sys.executable, "-m", "ragcache", "index", "--corpus", str(corpus), "--out", str(index), "--quiet"]
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        indexed = Manifest.load(index / "manifest.json").documents
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # the peak is in KiB, and that of the largest child
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return {
        "documents": count,
        "characters": characters,
        "passages": indexed,
        "seconds": round(seconds, 1),
        "documents_per_second": round(count / seconds, 2),
        "passages_per_second": round(indexed / seconds, 2),
        "processor_seconds": round(processor, 1),  # which tell more than seconds on a busy machine
        "peak_mib": used.ru_maxrss >> 10,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; exit status 1 if the index could not be built."""
    parser = argparse.ArgumentParser(prog="python -m eval.bench_indexing", description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--characters", type=int, default=4_000, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="as for `ragcache index`")
    parser.add_argument("--embedder", default=DEFAULT_NAME, metavar="NAME", help="as for `ragcache index`")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(argv)
    if min(options.documents, options.characters) < 1:
        parser.error("numbers must be at least 1")
    try:
        chosen = ["--embedder", options.embedder, *(["--whole"] if options.whole else [])]
        report = measure(options.documents, options.characters, chosen)
    except subprocess.CalledProcessError as error:
        print(f"error: `ragcache index` ended with {error.returncode}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(f"{name:<22} {value}" for name, value in report.items()))
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.bench_indexing"))
