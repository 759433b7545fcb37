"""Recall: how many questions find one of their documents among the first k retrieved."""

import argparse
import gzip
import json
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import RetrievalError
from retrieval.retriever import Hit, Retriever


class QuestionError(Exception):
    """A question file is missing, malformed, or names documents that are not in the index."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the ids of all documents that answer it; `where` is its file and line."""

    id: str
    text: str
    doc_ids: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was retrieved for a question, best first; `rank` is the place of its first document from 1, or None."""

    question: Question
    hits: tuple[Hit, ...]
    rank: int | None


def read_questions(path: Path) -> tuple[list[Question], int]:
    """The questions of a .jsonl or .jsonl.gz file that name documents, and how many rows name none.

    Rows are objects with `id`, `question` and `doc_ids` (a list of document ids); other fields are ignored.
    """
    questions: list[Question] = []
    unlabelled = 0
    line_of: dict[str, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        question = _question(line, where)
        first = line_of.setdefault(question.id, number)
        if first != number:
            raise QuestionError(f"{where}: id {question.id!r} is already used on line {first}; ids must be unique")
        if question.doc_ids:
            questions.append(question)
        else:
            unlabelled += 1
    if not questions:
        raise QuestionError(f"{path}: no question names its documents; rows need a non-empty list 'doc_ids'")
    return questions, unlabelled


def measure(retriever: Retriever, questions: Sequence[Question], top_k: int) -> list[Outcome]:
    """Retrieve `top_k` documents for each question; QuestionError if one names a document that the index lacks."""
    for question in questions:
        for doc_id in question.doc_ids:
            try:
                retriever.store.row_of(doc_id)
            except KeyError:
                raise QuestionError(
                    f"{question.where}: document {doc_id!r} is not in the index; correct the id, "
                    "or use the index these questions were written for"
                ) from None
    vectors = retriever.embedder.encode([question.text for question in questions])
    outcomes = []
    for question, vector in zip(questions, vectors, strict=True):
        hits = tuple(retriever.search_vector(vector, top_k))
        ranks = [rank for rank, hit in enumerate(hits, start=1) if hit.document.id in question.doc_ids]
        outcomes.append(Outcome(question, hits, ranks[0] if ranks else None))
    return outcomes


def hit_ratio(outcomes: Sequence[Outcome], top_k: int) -> float:
    """The share of questions with one of their documents among the first `top_k`, which may be fewer than measured."""
    return sum(outcome.rank is not None and outcome.rank <= top_k for outcome in outcomes) / len(outcomes)


def _lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).split(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        raise QuestionError(f"{path}: the question file cannot be read ({error}); check the path") from error


def _question(line: bytes, where: str) -> Question:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise QuestionError(f"{where}: not JSON ({error}); each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise QuestionError(f"{where}: not a JSON object; each line must be one, with 'id', 'question' and 'doc_ids'")
    for name in ("id", "question"):
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            raise QuestionError(f"{where}: {name!r} must be a string that is not blank, found {value!r}")
    doc_ids = row.get("doc_ids") or []
    if not isinstance(doc_ids, list) or not all(isinstance(doc_id, str) for doc_id in doc_ids):
        raise QuestionError(f"{where}: 'doc_ids' must be a list of document ids, found {doc_ids!r}")
    return Question(row["id"], row["question"], tuple(doc_ids), where)


def _report(outcomes: Sequence[Outcome], unlabelled: int, top_k: int) -> dict[str, Any]:
    return {
        "questions": len(outcomes),
        "unlabelled": unlabelled,
        "top_k": top_k,
        "found": sum(outcome.rank is not None for outcome in outcomes),
        "hit_ratio": hit_ratio(outcomes, top_k),
        "missed": [
            {
                "id": outcome.question.id,
                "question": outcome.question.text,
                "doc_ids": outcome.question.doc_ids,
                "retrieved": [{"id": hit.document.id, "score": round(hit.score, 4)} for hit in outcome.hits],
            }
            for outcome in outcomes
            if outcome.rank is None
        ],
    }


def _in_words(report: dict[str, Any]) -> str:
    lines = [f"questions  {report['questions']}"]
    if report["unlabelled"]:
        lines.append(f"skipped    {report['unlabelled']} that name no documents")
    lines.append(f"found      {report['found']} in the first {report['top_k']}")
    lines.append(f"hit ratio  {report['hit_ratio']:.3f}")
    for missed in report["missed"]:
        lines += ["", f"missed     {missed['id']}  {missed['question']}", f"  wanted   {', '.join(missed['doc_ids'])}"]
        lines += [f"  {hit['score']:.3f}    {hit['id']}" for hit in missed["retrieved"]]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.recall", description=__doc__)
    parser.add_argument("--index", type=Path, required=True, metavar="DIR", help="folder of the index")
    parser.add_argument("--questions", type=Path, required=True, metavar="FILE", help=".jsonl or .jsonl.gz file")
    parser.add_argument("--top-k", type=int, default=3, metavar="K", help="documents per question (default 3)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(argv)
    try:
        questions, unlabelled = read_questions(arguments.questions)
        with Retriever.open(arguments.index) as retriever:
            outcomes = measure(retriever, questions, arguments.top_k)
    except (QuestionError, RetrievalError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = _report(outcomes, unlabelled, arguments.top_k)
    print(json.dumps(report, indent=2) if arguments.json else _in_words(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
