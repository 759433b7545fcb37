"""`ragcache profile-search`: real searches recorded stage by stage."""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

from ragcache.errors import ConfigError
from ragcache.simulate.trace import json_lines
from ragcache.whole_file import check_writable


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--index", type=Path, required=True, metavar="FILE", help="faiss.idx of a folder written by `ragcache index`"
    )
    parser.add_argument(
        "--questions",
        type=Path,
        required=True,
        metavar="FILE",
        help='JSON lines {"question": text} to search for; may be .gz',
    )
    parser.add_argument("--top-k", type=int, default=2, metavar="N", help="documents to search for (default: 2)")
    parser.add_argument(
        "--stages", type=int, metavar="N", help="cut each search into stages of equal effort (default: as many as pay)"
    )
    parser.add_argument(
        "--limit", type=int, default=1000, metavar="N", help="use at most this many questions (default: 1000)"
    )
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="search this often and take the median time (default: 3)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="recording to write")


def run(options: argparse.Namespace) -> int:
    """Writes the recording and prints its stages. Raises ConfigError or RetrievalError for what cannot be searched."""
    from tqdm import tqdm

    from ragcache.replay.search_recording import record_questions
    from retrieval.retriever import Retriever

    check_writable(options.out)
    if options.repeat < 1 or options.limit < 1:
        raise ConfigError("--repeat and --limit must be at least 1")
    questions = _questions(options.questions, options.limit)
    with (
        Retriever.open(options.index, threads=1) as retriever,
        tqdm(total=len(questions), unit="searches", disable=None, leave=False) as bar,
    ):
        profile = record_questions(
            retriever,
            questions,
            top_k=options.top_k,
            stages=options.stages,
            repeat=options.repeat,
            on_progress=bar.update,
        )
    profile.save(options.out)
    print(f"{'stage':>5}{'milliseconds':>15}{'final list':>13}")
    for stage, (seconds, share) in enumerate(zip(profile.stage_seconds, profile.settled(), strict=True), 1):
        print(f"{stage:>5}{seconds * 1000:>15.3f}{share:>13.1%}")
    if len(profile.stage_seconds) == 1:
        print(f"searches of one stage ({profile.index_type}): they show nothing before they end", file=sys.stderr)
    print(f"{len(profile.lists)} searches in {options.out}", file=sys.stderr)
    return 0


def _questions(file: Path, limit: int) -> list[str]:
    questions = []
    for where, row in islice(json_lines(file), limit):
        if not isinstance(row.get("question"), str) or not row["question"].strip():
            raise ConfigError(f"{where}: 'question' is missing: a text")
        questions.append(row["question"])
    return questions
