"""Recall: the share of questions with one of their documents, or a passage of one, among the first k retrieved."""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.props.question_set import Question, QuestionError, read_questions
from ragcache.console import streams
from retrieval.errors import RetrievalError
from retrieval.retriever import Hit, Retriever


@dataclass(frozen=True, slots=True)
class Outcome:
    """The hits of a question, best first; `rank` is the place, from 1, of the first that answers it, or None."""

    question: Question
    hits: tuple[Hit, ...]
    rank: int | None


def measure(retriever: Retriever, questions: Sequence[Question], top_k: int) -> list[Outcome]:
    """Retrieve `top_k` documents for each question. QuestionError if one names a document that the index lacks."""
    for question in questions:
        for doc_id in question.doc_ids:
            if not _is_indexed(retriever, doc_id):
                raise QuestionError(
                    f"{question.where}: document {doc_id!r} is not in the index; correct the id, "
                    "or use the index these questions were written for"
                )
    vectors = retriever.embedder.encode([question.text for question in questions])
    outcomes = []
    for question, vector in zip(questions, vectors, strict=True):
        hits = tuple(retriever.search_vector(vector, top_k))
        names = [{hit.document.id, hit.document.source} for hit in hits]
        ranks = [rank for rank, name in enumerate(names, start=1) if not name.isdisjoint(question.doc_ids)]
        outcomes.append(Outcome(question, hits, ranks[0] if ranks else None))
    return outcomes


def _is_indexed(retriever: Retriever, doc_id: str) -> bool:
    """Whether the index has this document, or its first passage."""
    for name in (doc_id, f"{doc_id}#1"):
        with contextlib.suppress(KeyError):
            retriever.store.row_of(name)
            return True
    return False


def hit_ratio(outcomes: Sequence[Outcome], top_k: int) -> float:
    """The share of questions with one of their documents among the first `top_k`, at most the number measured."""
    return sum(outcome.rank is not None and outcome.rank <= top_k for outcome in outcomes) / len(outcomes)


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
    """Print the report; exit status 2 if the index or the questions cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m eval.recall", description=__doc__)
    parser.add_argument("--index", type=Path, required=True, metavar="DIR", help="folder of the index")
    parser.add_argument("--questions", type=Path, required=True, metavar="FILE", help=".jsonl or .jsonl.gz file")
    parser.add_argument("--top-k", type=int, default=3, metavar="K", help="documents per question (default 3)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(argv)
    try:
        every = read_questions(arguments.questions)
        questions = [question for question in every if question.doc_ids]
        if not questions:
            raise QuestionError(f"{arguments.questions}: no question names its documents; rows need a list 'doc_ids'")
        with Retriever.open(arguments.index) as retriever:
            outcomes = measure(retriever, questions, arguments.top_k)
    except (QuestionError, RetrievalError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = _report(outcomes, len(every) - len(questions), arguments.top_k)
    print(json.dumps(report, indent=2) if arguments.json else _in_words(report))
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.recall"))
