"""QuestionSet: questions from a file, and the documents that answer them."""

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class QuestionError(Exception):
    """A question file is missing, malformed, or names documents that are not in the index."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the ids of all documents that answer it, none where that is not known.

    `where` is its file and line.
    """

    id: str
    text: str
    doc_ids: tuple[str, ...]
    where: str


def read_questions(path: Path) -> list[Question]:
    """The questions of a .jsonl or .jsonl.gz file.

    Rows are objects with `id`, `question` and, where known, `doc_ids` (a list of document ids); other fields are
    ignored. QuestionError names the line of a row that is not like that.
    """
    questions: list[Question] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        question = _question(line, where)
        first = line_of.setdefault(question.id, number)
        if first != number:
            raise QuestionError(f"{where}: id {question.id!r} is already used on line {first}; ids must be unique")
        questions.append(question)
    if not questions:
        raise QuestionError(f"{path}: the file holds no question")
    return questions


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
